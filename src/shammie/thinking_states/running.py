"""What the commands do: train and test, evaluate, think, compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from shammie.core import files
from shammie.core.backends import BackendCompleter, backend_for
from shammie.core.decoding import GenerationSettings
from shammie.core.errors import DataError, MismatchError, MissingFileError, ShammieError
from shammie.core.model import load, quiet
from shammie.core.plain import from_plain, to_plain
from shammie.core.run import RunRecord, read_run
from shammie.core.task import Task
from shammie.core.words import word_tokenizer
from shammie.thinking_states.coconut import Coconut
from shammie.thinking_states.config import SHIPPED
from shammie.thinking_states.data import load_problems, split
from shammie.thinking_states.evaluate import ROWS, accuracy, answers, by_length, causal, passes
from shammie.thinking_states.methods import Plain, Reasoner, Thinking
from shammie.thinking_states.problems import ANSWER, STEPS, Example, Layout, Problem
from shammie.thinking_states.settings import MethodSettings
from shammie.thinking_states.tasks import TASKS, task_named
from shammie.thinking_states.training import make_reasoner, scratch, train

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.thinking_states.config import ThinkingCompare, ThinkingEvaluate, ThinkingThink, ThinkingTrain

Record = dict[str, Any]
MODEL, METHOD = "model", "method.json"
_ALONE, _SHOWN, _CURVE = 12, 3, 120  # questions that are asked alone, shown, and points of a curve
_JUMPS = 300.0  # of models from scratch, unless the user says otherwise
_LOOKED = 500  # training problems that are looked at beforehand
_MARKED = 512  # tokens of a judge's reply
_TIMES = (1, 2, 4, 10)  # of the longest training problem: lengths that are tested


@dataclass(frozen=True)
class Corpus:
    """Problems to train on by number, problems of a check, and problems to test on by length."""

    train: Callable[[int], Problem]
    count: int
    checked: Sequence[Problem]
    tested: dict[int, list[Problem]]
    words: tuple[str, ...]
    identity: str
    dropped: tuple[tuple[int, str], ...] = ()


def corpus_of(config: ThinkingTrain) -> Corpus:
    """A task's problems, or a file's: its last rows are tested on, those before them checked. Errors: too few rows.

    Problems that are checked or tested are drawn apart from those that are trained on, though short ones may be the same by chance.
    """
    if _is_file(config.task):
        found = load_problems(Path(config.task), judge=_judge(config.judge))
        rest, tested = split(found.kept, config.tested)
        taught, checked = split(rest, min(config.checked, max(1, len(rest) // 10)))
        texts = [STEPS, ANSWER, *(" ".join([p.question, p.answer, *(s.text for s in p.steps)]) for p in found.kept)]
        words = tuple(dict.fromkeys(" ".join(texts).split()))
        return Corpus(lambda n: taught[n], len(taught), checked, {0: list(tested)}, words, found.sha256, found.dropped)
    task, seed, most = task_named(config.task), config.training.seed, config.operations
    checked = [task.problem(seed, n, most, test=True) for n in range(config.checked)]
    lengths = config.lengths or (tuple(most * times for times in _TIMES) if task.lengths else (2,))
    return Corpus(
        lambda n: task.problem(seed, n, most), config.problems, checked,
        {n: tested_problems(config.task, n, config.tested, seed) for n in lengths}, task.words, f"{config.task}/{most}",
    )  # fmt: skip


def _is_file(task: str) -> bool:
    return task not in TASKS and bool(Path(task).suffix)


def _judge(name: str | None) -> BackendCompleter | None:
    """A model that places steps; a reply is as long as the question and its marks."""
    return None if name is None else BackendCompleter(backend_for(name), GenerationSettings(_MARKED))


def tested_problems(name: str, length: int, count: int, seed: int) -> list[Problem]:
    """Test problems of exactly one length."""
    task = task_named(name)
    return [task.problem(seed, n, length, shortest=length, test=True) for n in range(count)]


def prepare_train(config: ThinkingTrain) -> Task:
    """Make model and problems. Errors: a file without steps, a backbone that cannot carry states, a task unknown."""
    corpus = corpus_of(config)
    reasoner = _fresh(config, word_tokenizer(corpus.words) if config.model is None else None)
    reasoner.model.module.to(config.device or reasoner.model.device)
    encode = reasoner.layout.encode
    checked = [encode(problem) for problem in corpus.checked]

    def taught(number: int) -> Example:
        example = encode(corpus.train(number))
        if why := reasoner.fits(example):
            raise DataError(f"problem {number}: {why}; raise it, or take a smaller --chunk")
        return example

    for number in range(min(corpus.count, _LOOKED)):  # before anything is written; later ones when they come
        taught(number)

    def execute(run: Run) -> int:
        for key in run.items(["train", "test"], "thinking-states train"):
            if key == "train":
                place = run.artifacts / "training"
                train(
                    reasoner, taught, corpus.count, config.training, place,
                    check=lambda: accuracy(reasoner, checked), every=config.check_every, resume=True,
                )  # fmt: skip
                save(reasoner, run.artifacts / MODEL)
                dropped = [{"kind": "dropped", "row": row, "why": why} for row, why in corpus.dropped]
                run.record(key, [*curve(place / "metrics.jsonl"), *dropped])
            else:
                done = open_reasoner(str(run.artifacts / MODEL), device=config.device)
                tested = {n: [encode(problem) for problem in own] for n, own in corpus.tested.items()}
                run.record(key, list(measured(done, tested)))
        return 0

    sizes = [len(example.question) for example in checked]
    estimate = {
        "problems": corpus.count, "dropped": len(corpus.dropped), "tokens a question": sum(sizes) / len(sizes),
        "chunks a question": sum(len(e.thoughts) for e in checked) / len(checked),
        "weights": f"{sum(p.numel() for p in reasoner.model.module.parameters()):,}",
    }  # fmt: skip
    inputs = {"problems": corpus.identity, "model": None if config.model is None else reasoner.model.hash}
    return Task(inputs, lambda: estimate, execute)


def _fresh(config: ThinkingTrain, tokenizer: PreTrainedTokenizerBase | None) -> Reasoner:
    if tokenizer is not None:
        jumps = _JUMPS if config.jumps is None else config.jumps
        return scratch(
            config.shape, tokenizer, config.reasoning, config.thinking, jumps=jumps, seed=config.training.seed
        )
    assert config.model is not None
    return make_reasoner(load(config.model, dtype="float32"), config.reasoning, config.thinking, config.jumps or 0.0)


def curve(path: Path) -> Iterator[Record]:
    """Steps in at most `_CURVE` groups, each with its means; accuracies of checks beside them."""
    steps = [json.loads(line) for line in files.read_bytes(path).splitlines()]
    size = -(-len(steps) // _CURVE)
    for start in range(0, len(steps), size):
        group = steps[start : start + size]
        names = [name for name in ("loss", "answer", "thought", "written") if name in group[0]]
        means = {name: sum(step[name] for step in group) / len(group) for name in names}
        yield {"kind": "curve", "step": group[-1]["step"] + 1, **means}
    for step in steps:
        if "accuracy" in step:
            yield {"kind": "check", "step": step["step"] + 1, "accuracy": step["accuracy"]}


def measured(reasoner: Reasoner, tested: dict[int, list[Example]]) -> Iterator[Record]:
    """Accuracy by length; at the shortest causal checks, forward passes, and some problems as they are answered."""
    yield from by_length(reasoner, tested)
    shortest = tested[min(tested)]
    if isinstance(reasoner, Thinking):
        yield from causal(reasoner, shortest)
        yield passes(reasoner, shortest[:_ALONE], "sequential")
    yield passes(reasoner, shortest[:_ALONE])
    shown = shortest[:_SHOWN]
    for example, one in zip(shown, answers(reasoner, shown), strict=True):
        yield {
            "kind": "shown",
            **read_record(reasoner.layout, example.question, one.thoughts),
            "answer": one.text,
            "right": one.right(example),
        }


def read_record(layout: Layout, question: Sequence[int], thoughts: Sequence[Sequence[int]]) -> Record:
    """A question chunk by chunk, with the thought after each."""
    chunks = [layout.text(question[at : at + layout.chunk]) for at in range(0, len(question), layout.chunk)]
    return {"chunks": chunks, "thoughts": [layout.text(thought) for thought in thoughts]}


def save(reasoner: Reasoner, directory: Path) -> None:
    """The model with its tokenizer, and how it reasons."""
    with files.atomic_directory(directory, overwrite=True) as place, quiet():
        reasoner.model.module.save_pretrained(place)
        reasoner.model.tokenizer.save_pretrained(place)
        method = {"reasoning": to_plain(reasoner.settings), "chunk": reasoner.layout.chunk, "jumps": reasoner.jumps}
        files.write_json(place / METHOD, method)


def open_reasoner(name: str, *, device: str | None = None, dtype: str = "auto") -> Reasoner:
    """What `save` wrote. Errors: MissingFileError for a directory without it."""
    place = Path(__file__).with_name("shipped") if name == SHIPPED else Path(name)
    if not (place / METHOD).is_file():
        raise MissingFileError(
            f"{name} holds no model of shammie thinking-states train ({METHOD} is missing); name artifacts/model of a run"
        )
    stored = files.read_json(place / METHOD)
    model = load(str(place), device=device, dtype=dtype)
    model.name = name
    settings, layout = from_plain(MethodSettings, stored["reasoning"]), Layout(model.tokenizer, stored["chunk"])
    kind = {"thinking": Thinking, "coconut": Coconut}.get(settings.method, Plain)
    return kind(model, layout, settings, stored["jumps"])


def prepare_evaluate(config: ThinkingEvaluate) -> Task:
    """Load model and problems."""
    reasoner = open_reasoner(config.model, device=config.device, dtype=config.dtype)
    if _is_file(config.task):
        found = load_problems(Path(config.task), limit=config.tested)
        problems, identity = {0: list(found.kept)}, found.sha256
    else:
        lengths = config.lengths if task_named(config.task).lengths else (2,)
        problems = {n: tested_problems(config.task, n, config.tested, config.seed) for n in lengths}
        identity = f"{config.task}/{config.seed}"
    tested = {n: [reasoner.layout.encode(problem) for problem in own] for n, own in problems.items()}

    def execute(run: Run) -> int:
        for key in run.items(["measured"], "thinking-states evaluate"):
            run.record(key, list(measured(reasoner, tested)))
        return 0

    estimate = {
        "problems": sum(map(len, tested.values())),
        "batches": sum(-(-len(own) // ROWS) for own in tested.values()),
    }
    return Task({"model": reasoner.model.hash, "problems": identity}, lambda: estimate, execute)


def prepare_think(config: ThinkingThink) -> Task:
    """Load the model. Errors: a model that does not think while reading, a word it does not know."""
    reasoner = open_reasoner(config.model, device=config.device, dtype=config.dtype)
    if not isinstance(reasoner, Thinking):
        raise ShammieError(
            f"{config.model} reasons by {reasoner.settings.method}; only models trained with --method thinking have thoughts"
        )
    question = reasoner.layout.question(config.text)
    if not question:
        raise DataError("the text has no words; give it some")

    def execute(run: Run) -> int:
        for key in run.items(["think"], "thinking-states think"):
            example = Example(Problem(config.text, (), ""), question, (), (), ())
            one = answers(reasoner, [example])[0]
            found = read_record(reasoner.layout, question, one.thoughts)
            rows = [
                {"kind": "read", "text": text, "thought": thought}
                for text, thought in zip(*found.values(), strict=True)
            ]
            run.record(key, [*rows, {"kind": "answer", "answer": one.text}])
        return 0

    estimate = {"tokens": len(question), "chunks": -(-len(question) // reasoner.layout.chunk)}
    return Task({"model": reasoner.model.hash}, lambda: estimate, execute)


def prepare_compare(config: ThinkingCompare) -> Task:
    """Read the runs. Errors: one that is no finished training, or of other problems."""
    runs = [_read(directory) for directory in config.runs]
    if len({str(run.inputs["problems"]) for run in runs}) > 1:
        raise MismatchError("the runs were trained on different problems; compare those of one task")

    def execute(run: Run) -> int:
        for key in run.items([str(number) for number in range(len(runs))], "thinking-states compare"):
            run.record(key, list(compared(runs[int(key)])))
        return 0

    return Task({"problems": str(runs[0].inputs["problems"])}, lambda: {"runs": len(runs)}, execute)


def compared(run: RunRecord) -> Iterator[Record]:
    """What a comparison keeps of a training: everything but its curve and its examples, with the method's name."""
    head = {"method": run.config["reasoning"]["method"], "seed": run.config["training"]["seed"]}
    for record in run.results:
        if record["kind"] in ("accuracy", "thoughts", "causal", "passes", "check"):
            yield {**head, **record}


def _read(directory: Path) -> RunRecord:
    record = read_run(directory)
    if record.command != "thinking-states train" or record.status != "finished":
        raise MissingFileError(f"{directory} holds no finished run of shammie thinking-states train; make one first")
    return record
