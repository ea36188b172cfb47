"""Move an answer with one state: what France's prompt says when Japan's state stands in its place."""

import sys

from shammie import GenerationSettings, Span, capture, edited, generate, load, make_batch, replace, residual

model = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")
settings = GenerationSettings(max_new_tokens=4)
prompt, other = "The capital of France is", "The capital of Japan is"
print("untouched:", generate(model, [prompt], settings)[0].text)
for layer in range(0, len(model.anatomy.layers), max(1, len(model.anatomy.layers) // 6)):
    site = residual(layer)
    state = capture(model, make_batch(model, [other]), [site])[site][0, 3]
    with edited(model, [replace(site, state, positions=Span(3, 4))]):
        print(f"token 3 replaced after layer {layer}:", generate(model, [prompt], settings)[0].text)
