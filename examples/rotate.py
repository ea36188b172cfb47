"""Open neurons of a late layer into channels, from their weights alone, and remove one channel of the clearest."""

import sys

from shammie import load
from shammie.core.vocabulary import token_text
from shammie.rotate.ablate import ablate
from shammie.rotate.describe import describe
from shammie.rotate.fit import fit
from shammie.rotate.settings import RotateSettings

model = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")
layer = round(0.85 * (len(model.anatomy.layers) - 1))
channels = fit(model, layer, "out", range(40), RotateSettings(channels=3, null_draws=60))
texts = [token_text(model, token) for token in range(model.anatomy.vocabulary_size)]
records = channels.records(texts)
for neuron in channels.neurons:
    own = [record for record in records if record["neuron"] == neuron and record["significant"]]
    if own:
        print(f"layer {layer}, neuron {neuron}: {describe(own)}")
clearest = channels.neurons[int(channels.evidence[:, 0].argmax())]
patch = ablate(model, channels, clearest, channel=0)
with patch.applied(model):
    again = fit(model, layer, "out", [clearest], RotateSettings(channels=3, null_draws=60))
print(f"the first channel of neuron {clearest} had evidence {float(channels.evidence.max()):.1f};", end=" ")
print(f"after its ablation the strongest has {float(again.evidence.max()):.1f}")
