"""Mistakes: one sentence on standard error, exit code 2, no traceback, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GENERATE = ("generate", "llama", "--prompts", "prompts.jsonl", "--output-dir", "new")
CAPTURE = ("capture", "llama", "--texts", "texts.txt", "--output-dir", "new", "--sites")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["captur"], "'captur' is no command; did you mean 'capture'?"),
        (["zzzz"], "'zzzz' is no command (shammie --help lists them)"),
        (["capture"], "missing MODEL, --texts PATH, --sites STR, --output-dir PATH"),
        (["fetch"], "missing NAME"),
        (["fetch", "one", "two"], "unrecognized options: two"),
        (
            [*GENERATE, "--max-new-token", "3"],
            "unrecognized options: --max-new-token, 3; perhaps you meant --max-new-tokens",
        ),
        ([*GENERATE, "--rows", "x"], "error parsing --rows"),
        ([*GENERATE, "--rows", "0"], "--rows must be at least 1"),
        ([*GENERATE, "--limit", "0"], "a limit of 0 leaves no records"),
        ([*GENERATE, "--dtype", "int8"], "invalid choice 'int8'"),
        ([*GENERATE, "--max-new-tokens", "0"], "max_new_tokens and samples must be at least 1"),
        ([*GENERATE, "--samples", "2"], "set a temperature above 0"),
        ([*GENERATE, "--patch", "nowhere"], "holds no weight_patch artifact"),
        ([*GENERATE, "--device", "abacus"], "cannot use device 'abacus'"),
        ([*GENERATE, "--config"], "--config needs a file"),
        ([*GENERATE, "--config", "no.yaml"], "no.yaml does not exist"),
        ([*GENERATE, "--config=a.yaml", "--config=b.yaml"], "--config is given twice"),
        (
            ["generate", "llama", "--prompts", "texts.txt", "--output-dir", "new"],
            "plain text cannot fill the fields prompt",
        ),
        (["generate", "llama", "--prompts", "no.jsonl", "--output-dir", "new"], "no.jsonl does not exist"),
        (["generate", "bare", "--chat", *GENERATE[2:]], "has no chat template"),
        (["generate", "./nowhere", *GENERATE[2:]], "no model directory at ./nowhere"),
        ([*CAPTURE, "residual:9"], "layer 9 does not exist"),
        ([*CAPTURE, "residul:0"], "did you mean 'residual'?"),
        ([*CAPTURE, ""], "no site was named"),
        ([*CAPTURE, "router:0"], "is dense"),
        ([*CAPTURE, "residual:0", "--positions", "middle"], "positions 'middle' are not one of"),
        ([*CAPTURE, "residual:0", "--positions", "last", "--skip-first", "1"], "either positions or skip_first"),
        ([*CAPTURE, "residual:0", "--texts-per-shard", "0"], "must be at least 1"),
        (["show", "nowhere"], "holds no run"),
        (["replay", "nowhere"], "holds no run"),
        (["replay", "nowhere", "--tolerance", "-1"], "a tolerance of -1.0 makes no sense"),
        (["power", "basin"], "'basin' has no planted test"),
        (["chat", "llama", "--max-new-tokens", "0"], "must be at least 1"),
        (["chat", "llama", "--patch", "nowhere"], "holds no weight_patch artifact"),
        (["doctor", "texts.txt"], "neither a GGUF file nor a model directory"),
        (["apply", "nowhere", "llama", "--output", "new"], "holds no weight_patch artifact"),
    ],
)
def test_one_sentence(line, sentence, refused, workplace):
    assert sentence in refused(*line)
    assert not (workplace / "new").exists()


def test_a_directory_that_holds_another_run(refused, shammie, tmp_path):
    line = (*GENERATE[:4], "--output-dir", tmp_path, "--max-new-tokens", "2")
    assert shammie(*line)[0] == 0
    assert "already holds a run; add --resume" in refused(*line)
    other = refused(*line, "--limit", "1", "--resume")
    assert "config.limit is None, not 1" in other


def test_mistakes_in_a_process_of_their_own(shell):
    done = shell("capture", "llama", "--texts", "texts.txt", "--sites", "residual:99", "--output-dir", "new")
    expected = "shammie capture: layer 99 does not exist; this model has layers 0 to 2\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    done = shell("shwo")
    expected = "shammie: 'shwo' is no command; did you mean 'show'? (shammie --help lists them)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_an_interrupt_names_the_way_on(workplace, tmp_path):
    line = [sys.executable, "-m", "shammie.cli.main", *GENERATE[:4], "--output-dir", str(tmp_path / "run")]
    flags = ["--rows", "1", "--max-new-tokens", "200", "--temperature", "1", "--samples", "50"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with subprocess.Popen(
        line + flags, cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells start background jobs without it
    ) as process:  # fmt: skip
        results = tmp_path / "run" / "results.jsonl"
        deadline = time.monotonic() + 60
        while not (results.exists() and results.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    expected = f"shammie generate: interrupted; repeat the command with --resume to go on in {tmp_path / 'run'}\n"
    assert err == expected
