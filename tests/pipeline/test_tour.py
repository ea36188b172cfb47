"""The tour through the real command line: its run, its page, its mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pico import build
from report.chrome import CHROMIUM, Chrome

CORE = ("who", "knows", "forms", "decided", "exact")
ROOMS = (
    "rotate",
    "ember",
    "mfa",
    "entity-cells",
    "sekd",
    "recall",
    "beliefs",
    "bonafide",
    "routing",
    "thinking-states",
)  # whose own tests look at their records
SOURCE = Path(__file__).parents[2] / "src"


def shammie(*words):
    return subprocess.run(
        [sys.executable, "-m", "shammie.cli.main", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


@pytest.fixture(scope="module")
def toured(tmp_path_factory):
    """The core's chapters on the embedded model at the smallest size that still has something to compare."""
    place = tmp_path_factory.mktemp("tour") / "run"
    done = shammie("tour", "--only", *CORE, "--limit", 6, "--output-dir", place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """The rooms' chapters on a tiny model, which knows nothing; what they find in a real one is for `test-real`."""
    place = tmp_path_factory.mktemp("rooms")
    model = build("gemma", hidden_size=64, intermediate_size=128, num_hidden_layers=6)
    model.module.save_pretrained(place / "model")
    model.tokenizer.save_pretrained(place / "model")
    done = shammie("tour", "--model", place / "model", "--only", *ROOMS, "--limit", 2, "--output-dir", place / "run")
    assert done.returncode == 0, done.stderr
    return place / "run"


def records(place):
    return [json.loads(line) for line in (place / "results.jsonl").read_text().splitlines()]


def estimates(value):
    if isinstance(value, dict):
        if {"value", "low", "high"} <= set(value):
            yield value
        for inner in value.values():
            yield from estimates(inner)


@pytest.mark.smollm2
def test_every_chapter_leaves_records_with_their_doubt(toured, rooms):
    assert [*dict.fromkeys(record["chapter"] for record in records(rooms))] == [*ROOMS]
    found = records(toured)
    assert [*dict.fromkeys(record["chapter"] for record in found)] == [*CORE]
    kinds = {record["kind"] for record in found}
    assert {"identity", "accuracy", "lens", "rise", "patching", "steering", "spoken", "way"} <= kinds
    for record in [*found, *records(rooms)]:
        for estimate in estimates(record):
            assert estimate["n"] >= 1
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
    for kind, control in (("accuracy", "control"), ("steering", "control"), ("rise", "control"), ("place", "control")):
        own = [record for record in found if record["kind"] == kind and record["chapter"] in CORE]
        assert all(control in record for record in own)


@pytest.mark.smollm2
def test_what_is_measured_is_what_is_known_of_the_model(toured):
    found = records(toured)
    assert all(record["ok"] for record in found if record["kind"] == "identity")
    rise = {record["layer"]: record for record in found if record["kind"] == "rise"}
    assert rise[29]["answer"]["value"] > 0.3 > rise[0]["answer"]["value"]
    assert rise[29]["control"]["value"] < 0.05
    name = [record for record in found if record["kind"] == "place" and record["place"] == "country name"]
    assert name[0]["effect"]["value"] > 0.9
    assert abs(name[-1]["effect"]["value"]) < 0.05
    for record in found:
        if record["kind"] == "way" and record["ours"]:
            assert record["largest_difference"] < 1e-3
            assert record["same_tokens"] == record["prompts"]
    assert max(r["largest_difference"] for r in found if r["kind"] == "way" and not r["ours"]) > 1


@pytest.mark.smollm2
def test_the_pages_show_each_chapter_and_name_no_other_host(toured, rooms):
    page = "".join((place / "report.html").read_text() for place in (toured, rooms))
    for title in (
        "Who the model is",
        "What it knows",
        "How an answer forms",
        "Where it is decided",
        "The same, however",
        "A concept erased",
    ):
        assert title in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.mark.smollm2
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; see tests/QUARANTINES.md")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
@pytest.mark.parametrize("run", ["toured", "rooms"])
def test_the_page_opens_offline_without_complaint(run, width, dark, request):
    page = request.getfixturevalue(run) / "report.html"
    with Chrome() as chrome:
        chrome.open(page.as_uri(), width, dark=dark, phone=width < 500)
        assert chrome.complaints() == []
        assert all(url.startswith(("file:", "data:")) for url in chrome.requests())
        assert chrome.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.smollm2
def test_a_finished_tour_is_shown_and_resumed_without_measuring_again(toured):
    before = (toured / "results.jsonl").read_bytes()
    assert shammie("show", toured).returncode == 0
    again = shammie("tour", "--only", *CORE, "--limit", 6, "--output-dir", toured, "--resume")
    assert again.returncode == 0, again.stderr
    assert (toured / "results.jsonl").read_bytes() == before


@pytest.mark.smollm2
def test_replay_of_a_chapter_repeats_its_bytes(tmp_path):
    place = tmp_path / "run"
    assert shammie("tour", "--only", "knows", "--limit", 4, "--output-dir", place).returncode == 0
    replayed = shammie("replay", place)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


@pytest.mark.real
@pytest.mark.smollm2
def test_the_whole_tour_fits_in_five_megabytes(tmp_path):
    done = shammie("tour", "--limit", 6, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert [*dict.fromkeys(record["chapter"] for record in records(tmp_path / "run"))] == [*CORE, *ROOMS]
    assert (tmp_path / "run" / "report.html").stat().st_size <= 5_000_000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "nonsense"], "no chapter 'nonsense'"),
        (["--limit", "1"], "--limit must be at least 2"),
        (["--model", "no/such-model"], "no/such-model"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, words, says):
    done = shammie("tour", "--output-dir", tmp_path / "run", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "results.jsonl").exists()
