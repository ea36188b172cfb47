"""Tell a model a false capital, see which belief its states hold while it writes, and put the other one into them."""

import sys

from shammie import load
from shammie.beliefs.ask import Asker, beliefs_of
from shammie.beliefs.data import load_cases
from shammie.beliefs.intervene import Intervener, arms
from shammie.beliefs.read import GridReader
from shammie.beliefs.settings import AskSettings, ReadSettings

model = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", dtype="float32")
cases = load_cases("geonames:capital", limit=12).cases
case = next(case for case in cases if case.subject == "Japan")
asker, reader = Asker(model, AskSettings(max_new_tokens=16)), GridReader(model, ReadSettings(step=4))

for frame in ("none", "neutral", "non-credible"):
    told = asker.ask([(case, frame)])[0]
    scores = reader.read(told.ids, told.start, beliefs_of(case)).scores(reader.settings)
    print(f"{frame:13} {told.text.strip()!r}: {told.favours} is likelier, by {abs(told.margin):.1f} nats;", end=" ")
    print(f"states hold {case.base[0]} {scores['base_density']:.0%}, {case.counter[0]} {scores['counter_density']:.0%}")

told = asker.ask([(case, "neutral")])[0]
chosen = arms((0.2,))
changed = Intervener(asker, cases, reader.layers).margins(case, told, chosen)
for arm, margin in zip(chosen, changed, strict=True):
    print(f"{arm.name:26} margin {told.margin:+.2f} -> {margin:+.2f}")
