"""Make a student of half a model's layers, teach it where it is unsure, and see how near it comes to the whole."""

import sys
import tempfile
from pathlib import Path

from shammie import GenerationSettings, generate, load
from shammie.core.schedule import TrainSettings
from shammie.core.windows import cut_windows
from shammie.sekd.distill import Distiller, Examples
from shammie.sekd.evaluate import read_windows, summarize_windows
from shammie.sekd.settings import DistillSettings
from shammie.sekd.shrink import shrink
from shammie.sekd.training import train, trainable
from shammie.sekd.vocabulary import shared_vocabulary

teacher = load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", dtype="float32")
student = shrink(teacher, max(2, len(teacher.anatomy.layers) // 2))
openings = [
    f"{subject} is known for"
    for subject in ("Bread", "A river", "The old harbour", "A good teacher", "The sea", "Iron")
]
written = generate(teacher, openings, GenerationSettings(max_new_tokens=64, temperature=0.8))
texts = [opening + one.text for opening, one in zip(openings, written, strict=True)]
windows = cut_windows(teacher.tokenizer, texts, 48)
held, taught = windows.take([0, 1]), windows.take(range(2, len(windows)))


def distance() -> float:
    """Nats a position between teacher and student on windows that are not trained on."""
    found = summarize_windows(read_windows(student, held, teacher), seed=0)
    return next(record["kl"]["value"] for record in found if record["kind"] == "divergence")


print(f"before: {distance():.2f} nats from the teacher")
distiller = Distiller(student, teacher, DistillSettings(), shared_vocabulary(student, teacher))
settings = TrainSettings(steps=10, batch_size=2, learning_rate=3e-4, warmup=2, checkpoint_every=0)
with trainable(student), tempfile.TemporaryDirectory() as place:
    train(
        distiller,
        lambda piece, _: Examples(taught.ids[piece], taught.valid[piece]),
        len(taught),
        settings,
        Path(place) / "t",
    )
print(f"after ten steps at a fifth of the positions: {distance():.2f}")
