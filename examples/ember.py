"""Take what a model knows about honeybees out of its token embeddings, and ask it the same questions again."""

import sys

from shammie import load
from shammie.ember.edit import find_directions
from shammie.ember.evaluate import ask
from shammie.ember.pack import load_pack
from shammie.ember.settings import EmberSettings

model, pack = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", dtype="float32"), load_pack("honeybees")
directions = find_directions(model, pack, EmberSettings())
print("edited tokens:", ", ".join(model.tokenizer.decode([token]).strip() for token in directions.tokens))
patch = directions.patch(model, 5.0)
for name in ("questions", "similar"):
    before = ask(model, pack, "test", ("choice",), limit=12, sets=(name,))
    with patch.applied(model):
        after = ask(model, pack, "test", ("choice",), limit=12, sets=(name,))
    print(f"{name}: {sum(a.hit for a in before):.0f} of {len(before)} right, then {sum(a.hit for a in after):.0f}")
