"""A way of reasoning trained on several devices; with --use_fsdp weights and moments are spread over them.

    accelerate launch --num_processes 4 [--use_fsdp] examples/thinking_states_processes.py TASK METHOD OUTPUT [STEPS JUMPS]

A killed launch goes on when it is repeated, on any number of processes that divides the batch.
"""

import sys
from pathlib import Path

import torch

from shammie.core.schedule import TrainSettings
from shammie.core.shard import whole
from shammie.core.words import word_tokenizer
from shammie.thinking_states.settings import MethodSettings, Shape, ThinkingSettings
from shammie.thinking_states.tasks import TASKS
from shammie.thinking_states.training import scratch, train

name, method, output = sys.argv[1:4]
steps, jumps = (int(sys.argv[4]), float(sys.argv[5])) if len(sys.argv) > 4 else (1000, 300.0)
task = TASKS[name]
tokenizer = word_tokenizer(task.words)
reasoner = scratch(
    Shape(layers=3, width=32, heads=2, neurons=64), tokenizer, MethodSettings(method), ThinkingSettings(6), jumps=jumps, seed=0
)  # fmt: skip

settings = TrainSettings(steps=steps, batch_size=8, learning_rate=2e-3, accumulation=2, checkpoint_every=50)
place = Path(output) / "training"
train(
    reasoner,
    lambda n: reasoner.layout.encode(task.problem(0, n, 5)),
    10_000,
    settings,
    place,
    check=lambda: 0.0,
    resume=True,
)
weights = {name: whole(tensor) for name, tensor in reasoner.model.module.state_dict().items()}
if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
    reasoner.model.module.save_pretrained(Path(output) / "model", state_dict=weights)
    tokenizer.save_pretrained(Path(output) / "model")
if torch.distributed.is_initialized():
    torch.distributed.barrier()  # nobody leaves while the first one writes
    torch.distributed.destroy_process_group()
