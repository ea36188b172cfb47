"""The commands as a user types them, on a tiny model: shrink, score, cache, train, evaluate; and what is refused."""

import json

import pytest

from pico import build
from records import results
from shammie.cli.main import main
from shammie.core.model import load

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
WINDOW = ("--window", "32")
STEPS = ("--steps", "6", "--batch-size", "2", "--learning-rate", "1e-3", "--held-out", "3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A teacher, texts, a student of two of its layers, chosen windows, and a cache of them."""
    place = tmp_path_factory.mktemp("sekd")
    for name, seed in (("teacher", 1), ("other", 2)):
        model = build("llama", seed=seed, num_hidden_layers=4)
        model.module.save_pretrained(place / name)
        model.tokenizer.save_pretrained(place / name)
    lines = [" ".join(WORDS[(i * j + j) % 8] for j in range(1, 12)) for i in range(24)]
    (place / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    (place / "fewer.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines[:20]))
    (place / "words.jsonl").write_text(
        "".join(json.dumps({"text": line, "answer": "alpha"}) + "\n" for line in lines[:4])
    )
    choices = [{"question": line, "choices": ["alpha", "beta"], "answer": 1} for line in lines[:4]]
    (place / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    texts = ("--texts", str(place / "texts.jsonl"), *WINDOW)
    assert (
        main(["sekd", "shrink", str(place / "teacher"), "--keep", "0", "3", "--output-dir", str(place / "small")]) == 0
    )
    assert main(["sekd", "score", student(place), *texts, "--keep", "0.5", "--output-dir", str(place / "score")]) == 0
    chosen = ("--samples", str(place / "score"), "--windows-per-shard", "4", "--statistics", "teacher_entropy")
    assert main(["sekd", "cache", str(place / "teacher"), *texts, *chosen, "--output-dir", str(place / "cache")]) == 0
    return place


def student(place):
    return str(place / "small" / "artifacts" / "student")


def texts(place, name="texts"):
    return ("--texts", str(place / f"{name}.jsonl"), *WINDOW)


def test_a_student_is_scored_taught_and_measured(place):
    choice = next(record for record in results(place / "score") if record["kind"] == "choice")
    scores = [record["score"] for record in results(place / "score") if record["kind"] == "window"]
    assert len(choice["kept"]) == -(-len(scores) // 2)
    assert min(scores[i] for i in choice["kept"]) >= max(
        scores[i] for i in range(len(scores)) if i not in choice["kept"]
    )
    whole = next(record for record in results(place / "cache") if record["kind"] == "cache")
    assert whole["positions"] == 31 * len(choice["kept"])
    run = place / "dense"
    assert (
        main(
            [
                "sekd",
                "train",
                student(place),
                "--teacher",
                str(place / "teacher"),
                *texts(place),
                *STEPS,
                "--output-dir",
                str(run),
            ]
        )
        == 0
    )
    before, after = (
        next(r for r in results(run) if r.get("when") == when and r["kind"] == "divergence")
        for when in ("before", "after")
    )
    assert after["kl"]["value"] < before["kl"]["value"]
    assert load(run / "artifacts" / "student").module.config.num_hidden_layers == 2
    assert "KL to the teacher" in (run / "report.html").read_text()


def test_a_cache_teaches_without_the_teacher(place):
    common = [
        "sekd",
        "train",
        student(place),
        *texts(place),
        *STEPS,
        "--samples",
        str(place / "score"),
        "--recipe",
        "se-kd-3x",
    ]
    cached = [*common, "--cache", str(place / "cache")]
    assert main([*cached, "--output-dir", str(place / "alone")]) == 0
    trained = next(record for record in results(place / "alone") if record["kind"] == "trained")
    assert trained["steps"] == 6
    assert trained["positions"] < 0.3 * trained["tokens"]
    measured = [record for record in results(place / "alone") if record["kind"] == "divergence"]
    assert not measured  # nothing to compare with
    assert main([*cached, "--teacher", str(place / "teacher"), "--output-dir", str(place / "beside")]) == 0
    assert [r for r in results(place / "beside") if r["kind"] == "divergence"]
    bits = [(place / run / "artifacts" / "student" / "model.safetensors").read_bytes() for run in ("alone", "beside")]
    assert bits[0] == bits[1]


def test_a_cached_statistic_can_choose(place):
    line = [
        "sekd",
        "train",
        student(place),
        *texts(place),
        *STEPS,
        "--samples",
        str(place / "score"),
        "--cache",
        str(place / "cache"),
    ]
    settings = ["--classes", "sampled", "--signal", "teacher_entropy"]
    assert main([*line, *settings, "--output-dir", str(place / "by-teacher")]) == 0


def test_several_processes_write_one_cache(place, tmp_path):
    line = [
        "sekd",
        "cache",
        str(place / "teacher"),
        *texts(place),
        "--samples",
        str(place / "score"),
        "--windows-per-shard",
        "4",
    ]
    line += ["--statistics", "teacher_entropy", "--cache", str(tmp_path / "cache")]
    for part in ("2/2", "1/2"):
        assert main([*line, "--part", part, "--output-dir", str(tmp_path / part[0])]) == 0
    one = place / "cache" / "artifacts" / "cache"
    names = sorted(path.name for path in one.iterdir() if not path.name.startswith("."))
    assert names == sorted(path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith("."))
    assert all((one / name).read_bytes() == (tmp_path / "cache" / name).read_bytes() for name in names)


def test_a_damaged_shard_is_named_and_rebuilt_alone(place, tmp_path, capsys):
    line = [
        "sekd",
        "cache",
        str(place / "teacher"),
        *texts(place),
        "--windows-per-shard",
        "4",
        "--output-dir",
        str(tmp_path / "run"),
    ]
    assert main(line) == 0
    shards = sorted((tmp_path / "run" / "artifacts" / "cache").glob("shard-*.safetensors"))
    good, times = [shard.read_bytes() for shard in shards], [shard.stat().st_mtime_ns for shard in shards]
    damaged = bytearray(good[1])
    damaged[-20] ^= 255
    shards[1].write_bytes(damaged)
    train = [
        "sekd",
        "train",
        student(place),
        *texts(place),
        "--steps",
        "6",
        "--batch-size",
        "8",  # every window is read
        "--recipe",
        "rs-kd",
        "--cache",
        str(tmp_path / "run"),
    ]
    assert main([*train, "--output-dir", str(tmp_path / "train")]) == 2
    assert shards[1].name in capsys.readouterr().err
    assert main([*line, "--resume"]) == 0
    assert [shard.read_bytes() for shard in shards] == good
    assert [shard.stat().st_mtime_ns for shard in shards[2:]] == times[2:]
    assert main([*train, "--output-dir", str(tmp_path / "train"), "--resume"]) == 0


def test_evaluation_has_its_page(place, tmp_path):
    line = ["sekd", "evaluate", student(place), "--teacher", str(place / "teacher"), *texts(place), "--ask-teacher"]
    line += [
        "--last-words",
        str(place / "words.jsonl"),
        "--choices",
        str(place / "choices.jsonl"),
        "--output-dir",
        str(tmp_path / "run"),
    ]
    assert main(line) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    for text in ("a uniform student", "unigram", "How sure it is", "What it knows"):
        assert text in page


def test_dry_runs_write_nothing(place, tmp_path, capsys):
    lines = {
        "score": ["score", student(place), *texts(place)],
        "cache": ["cache", str(place / "teacher"), *texts(place)],
        "train": ["train", student(place), "--teacher", str(place / "teacher"), *texts(place), *STEPS],
    }
    for name, line in lines.items():
        assert main(["sekd", *line, "--output-dir", str(tmp_path / name), "--dry-run"]) == 0
        assert "windows" in capsys.readouterr().out
        assert not (tmp_path / name).exists()


TAUGHT = "train STUDENT TEXTS --teacher TEACHER"
CACHED = "train STUDENT TEXTS SAMPLES --cache CACHE"
REFUSED = {
    "neither": ("train STUDENT TEXTS", "--teacher or --cache"),
    "other teacher": (f"{CACHED} --teacher OTHER --recipe se-kd-3x", "another teacher"),
    "other text": ("train STUDENT FEWER --cache CACHE --recipe se-kd-3x", "another"),
    "other draws": (f"{CACHED} --classes sampled --draws 49", "another draws"),
    "other windows": ("train STUDENT FEWER SAMPLES --teacher TEACHER", "other windows"),
    "full classes from a cache": (CACHED, "full"),
    "signal not held": (f"{CACHED} --classes sampled --signal teacher_ce", "--statistics teacher_ce"),
    "nothing left": (f"{TAUGHT} --held-out 900", "held out"),
    "recipe and settings": (f"{TAUGHT} --recipe se-kd --budget 0.3", "--recipe"),
    "unknown recipe": (f"{TAUGHT} --recipe se", "se-kd-3x"),
    "budget": (f"{TAUGHT} --budget 0", "--budget"),
    "reverse of few classes": (f"{TAUGHT} --classes top --divergence 1", "--divergence 0"),
    "score without teacher": ("score STUDENT TEXTS --signal kl", "--teacher"),
    "share kept": ("score STUDENT TEXTS --keep 1.5", "--keep"),
    "statistic": ("cache TEACHER TEXTS --statistics kl", "teacher_ce"),
    "part": ("cache TEACHER TEXTS --part 3/2", "2/4"),
    "window": ("cache TEACHER TEXTS --window 1", "window of 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name, place, tmp_path, capsys):
    line, said = REFUSED[name]
    words = {
        "STUDENT": [student(place)],
        "TEACHER": [str(place / "teacher")],
        "OTHER": [str(place / "other")],
        "CACHE": [str(place / "cache")],
        "TEXTS": texts(place),
        "FEWER": texts(place, "fewer"),
        "SAMPLES": ["--samples", str(place / "score")],
    }
    typed = [word for part in line.split() for word in words.get(part, [part])]
    assert main(["sekd", *typed, "--output-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1, error
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_student_too_large_is_refused_with_the_estimate(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shammie.sekd.distilling._free_bytes", lambda _: 1000)
    line = [
        "sekd",
        "train",
        student(place),
        "--teacher",
        str(place / "teacher"),
        *texts(place),
        "--output-dir",
        str(tmp_path / "run"),
    ]
    assert main(line) == 2
    assert "GiB" in (error := capsys.readouterr().err)
    assert "--lora-rank" in error
