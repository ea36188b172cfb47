"""Find the regions of a middle layer without labels, say where one token lies, and pull a text into that region."""

import sys

import torch

from shammie import load
from shammie.core.decoding import GenerationSettings
from shammie.core.edit import edited
from shammie.core.generate import generate
from shammie.core.harvest import stream
from shammie.core.position import Span
from shammie.core.site import residual
from shammie.mfa.concepts import mentions
from shammie.mfa.find import find
from shammie.mfa.fit import fit
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import TensorSource
from shammie.mfa.steer import steer

model = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")
site = residual(len(model.anatomy.layers) // 2)
things = mentions(("weekday", "place", "number"))
read = list(stream(model, [thing.text for thing in things], [site], positions=Span(2)))
states, sentence = torch.cat([part[site].float() for part in read]), torch.cat([part.row for part in read])
settings = MfaSettings(components=16, rank=4, restarts=3, held_out=0.1)
known = {"model": model.name, "model_hash": model.hash}
mixture = fit(TensorSource(states, 0.1, 0, sentence), site, settings, known)
print(f"{len(mixture.weights)} regions of {len(states):,} states of {site}")
(line,) = find(model, mixture, "The concert was moved to Friday because of rain", " Friday")
print(f"{line['token']!r} lies in region {line['region']} with probability {line['probability']}")
short = GenerationSettings(max_new_tokens=16)
print("as it is:", generate(model, ["I think that"], short)[0].text)
with edited(model, [steer(mixture, line["region"], alpha=0.4)]):
    print("steered: ", generate(model, ["I think that"], short)[0].text)
