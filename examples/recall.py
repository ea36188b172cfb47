"""Ask for capitals with and without reasoning, and with meaningless tokens or the model's own facts in reasoning's place."""

import sys

from shammie import load
from shammie.core.backends import LocalBackend
from shammie.recall.data import load_questions
from shammie.recall.evaluate import contrasts
from shammie.recall.knowledge import load_knowledge
from shammie.recall.sample import Sampler
from shammie.recall.samples import Samples
from shammie.recall.settings import RecallSettings, SwitchSettings
from shammie.recall.switch import Prompter, settle

model = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", dtype="float32")
questions = load_questions("geonames:countries", relations=("capital",), limit=2).questions
settings = RecallSettings(
    ("off", "on", "single", "dummy", "on-facts", "on-dummy-facts"), samples=2, more=0, trace_tokens=16
)
prompter = Prompter(model, settle(model, SwitchSettings()))
sampler = Sampler(LocalBackend(model), prompter, questions, settings, load_knowledge("geonames:"))

samples = Samples(model.name, settings.samples, more=0)
for question in questions:
    samples.add({"kind": "question", **vars(question)})
for record in sampler.everything(range(len(questions))):
    samples.add(record)
for condition in settings.conditions:
    print(f"{condition:15} {samples.accuracy(condition).mean():.2f}")
for row in contrasts(samples):
    print(f"{row['name']}: {row['difference']['value']:+.2f} (p = {row['difference']['p_value']:.2f})")
