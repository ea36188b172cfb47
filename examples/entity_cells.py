"""Find the neurons that stand for countries, and make the model forget one country's capital and no other's."""

import sys

from shammie import load
from shammie.entity_cells.data import load_entities
from shammie.entity_cells.edit import ablation_patch
from shammie.entity_cells.localize import Localizer
from shammie.entity_cells.measure import Question, ask
from shammie.entity_cells.settings import LocalizeSettings

model = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", dtype="float32")
countries = load_entities("geonames:countries", limit=24).entities
names = [country.name for country in countries]
cells = Localizer(model, names, LocalizeSettings(templates=8, anonymous=12)).cells()
japan = names.index("Japan")
print(
    f"Japan: {cells.findings[japan]['cell']}, {cells.findings[japan]['uniqueness']:.1f} times as active as for other names"
)

jobs = [(Question.of(model, country.facts[0], country.name), ()) for country in countries]
before = ask(model, jobs)
with ablation_patch(model, cells, japan, scale=-3, group=5).applied(model):
    after = ask(model, jobs)
lost = [1 - b.probability / a.probability for a, b in zip(before, after, strict=True)]
known = [number for number, reading in enumerate(before) if reading.rank <= 5 and number != japan]
print(f"Tokyo loses {lost[japan]:.0%} of its probability,", end=" ")
print(f"other known capitals {sum(max(0.0, lost[number]) for number in known) / len(known):.0%} on average")
