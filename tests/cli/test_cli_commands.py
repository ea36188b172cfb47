"""Every command through the real command line."""

import json
import os

import pytest

from shammie.core.model import load
from shammie.core.run import read_run

GENERATE = ("generate", "llama", "--prompts", "prompts.jsonl", "--rows", "2", "--max-new-tokens", "6")
CAPTURE = ("capture", "llama", "--texts", "texts.txt", "--sites", "residual:* mlp_out:1", "--texts-per-shard", "5")


def succeed(done):
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def generated(shell, workplace):
    out = succeed(shell(*GENERATE, "--output-dir", "generated"))
    assert "generated/report.html" in out
    return workplace / "generated"


@pytest.fixture(scope="module")
def captured(shell, workplace):
    succeed(shell(*CAPTURE, "--output-dir", "captured"))
    return workplace / "captured"


def test_generate_writes_one_record_a_completion(generated):
    record = read_run(generated)
    assert record.status == "finished"
    assert [result["prompt"] for result in record.results] == list(range(6))
    fields = {"prompt", "sample", "text", "reasoning", "answer", "finish", "tokens", "log_probability"}
    assert set(record.results[0]) == fields
    assert record.config["settings"]["max_new_tokens"] == 6
    assert not {"output_dir", "resume", "dry_run"} & set(record.config)
    assert set(record.inputs) == {"model", "data"}
    assert (generated / "report.html").read_text().startswith("<!")


def test_generate_agrees_with_the_library(generated, workplace):
    from shammie import GenerationSettings, generate

    model = load(workplace / "llama")
    prompts = [json.loads(line)["prompt"] for line in (workplace / "prompts.jsonl").read_text().splitlines()]
    texts = [completion.text for completion in generate(model, prompts, GenerationSettings(max_new_tokens=6))]
    assert [result["text"] for result in read_run(generated).results] == texts


def test_capture_writes_shards_with_an_index(captured, workplace):
    from shammie.core.harvest import Activations

    found = Activations(captured / "artifacts" / "states")
    assert [str(site) for site in found.sites] == ["residual:0", "residual:1", "residual:2", "mlp_out:1"]
    assert len(found) == 3
    assert found.tokens == sum(result["tokens"] for result in read_run(captured).results)
    found.check_model(load(workplace / "llama"))


def test_replay_of_a_run_is_identical(generated, shell):
    out = succeed(shell("replay", generated))
    assert out == "identical: 6 records, byte for byte\n"


def test_replay_keeps_the_new_run_where_told(captured, shammie, tmp_path):
    code, out, _ = shammie("replay", captured, "--output-dir", tmp_path / "again")
    assert (code, out.splitlines()[-1]) == (0, "identical: 3 records, byte for byte")
    for name in ("results.jsonl", "artifacts/states/index.json", "artifacts/states/shard-00002.safetensors"):
        assert (captured / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def doctored(run, tmp_path, change):
    """A copy of a finished run whose first record and versions were changed."""
    from shutil import copytree

    copy = copytree(run, tmp_path / "copy")
    lines = (copy / "results.jsonl").read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])
    change(first)
    changed = (json.dumps(first, ensure_ascii=False) + "\n").encode()
    shift = len(changed) - len(lines[0])
    (copy / "results.jsonl").write_bytes(b"".join([changed, *lines[1:]]))
    progress = [json.loads(line) for line in (copy / "progress.jsonl").read_text().splitlines()]
    moved = [json.dumps({**entry, "bytes": entry["bytes"] + shift}) + "\n" for entry in progress]
    (copy / "progress.jsonl").write_text("".join(moved))
    record = json.loads((copy / "run.json").read_text())
    record["versions"]["torch"], record["machine"]["threads"] = "1.0", 99
    (copy / "run.json").write_text(json.dumps(record))
    return copy


def test_replay_lists_differences_and_what_may_explain_them(generated, shammie, tmp_path):
    copy = doctored(generated, tmp_path, lambda first: first.update(log_probability=first["log_probability"] + 1e-3))
    code, out, _ = shammie("replay", copy)
    assert code == 1
    assert "record 0, log_probability: " in out
    assert "note: versions.torch was 1.0" in out
    assert "note: machine.threads was 99" in out
    code, out, _ = shammie("replay", copy, "--tolerance", "0.01")
    assert code == 0
    assert "equal: 6 records, numbers within 0.01" in out


def test_replay_refuses_an_unfinished_run(generated, refused, tmp_path):
    copy = doctored(generated, tmp_path, lambda _: None)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"status": "failed"}))
    assert "is not finished (failed)" in refused("replay", copy)
    (copy / "run.json").write_text(json.dumps(record | {"command": "weave carpets"}))
    assert "no command 'weave carpets'" in refused("replay", copy)
    config = record["config"] | {"colour": "red"}
    (copy / "run.json").write_text(json.dumps(record | {"config": config}))
    assert "has no key 'colour'" in refused("replay", copy)


def test_show_draws_the_page_again(generated, shell):
    (generated / "report.html").unlink()
    out = succeed(shell("show", generated))
    assert "shammie generate" in out
    assert "log_probability" in out
    assert (generated / "report.html").exists()


def test_show_survives_a_closed_pipe(generated, workplace):
    import subprocess
    import sys

    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "shammie.cli.main", "show", str(generated)]
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(line, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False, env=environment())
    assert (done.returncode, done.stderr) == (141, "")


def environment():
    from pathlib import Path

    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def test_apply_writes_a_checkpoint_that_transformers_loads(shell, refused, workplace):
    import torch
    from transformers import AutoModelForCausalLM

    out = succeed(shell("apply", "patch", "llama", "--output", "patched"))
    assert "model.layers.1.mlp.down_proj.weight" in out
    plain, before = (AutoModelForCausalLM.from_pretrained(workplace / name) for name in ("patched", "llama"))
    name = "model.layers.1.mlp.down_proj.weight"
    moved = (plain.get_parameter(name) - before.get_parameter(name)).detach()
    assert torch.allclose(moved[:, [0, 3]], torch.ones(32, 2), atol=1e-5)
    assert moved.abs().sum() == pytest.approx(64, rel=1e-4)
    assert "choose another --output" in refused("apply", "patch", "llama", "--output", "patched")


def test_apply_refuses_another_model(refused, workplace):
    assert "made for weights" in refused("apply", "patch", "bare", "--output", "other")
    assert not (workplace / "other").exists()


def test_chat_shows_before_and_after(shell, workplace):
    out = succeed(
        shell("chat", "llama", "--patch", "patch", "--max-new-tokens", "8", "--system", "Be.", stdin="Hello\n\nAgain\n")
    )
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("> ")] == ["> Hello", "> Again"]
    assert sum(line.startswith("before") and "│ after" in line for line in lines) == 2


def test_chat_sides_are_the_two_models(shammie, workplace, monkeypatch):
    import io

    from shammie.core.generate import GenerationSettings, generate
    from shammie.core.patch import WeightPatch

    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    code, out, _ = shammie(
        "chat", "llama", "--patch", "patch", "--max-new-tokens", "8", "--seed", "3", "--temperature", "1"
    )
    assert code == 0
    model, settings = load(workplace / "llama"), GenerationSettings(8, 1.0, seed=3)
    turn = [[{"role": "user", "content": "Hello"}]]
    before = generate(model, turn, settings)[0].text
    with WeightPatch.from_pretrained(workplace / "patch").applied(model):
        after = generate(model, turn, settings)[0].text
    assert before != after
    body = "".join(line for line in out.splitlines() if "│" in line)
    letters = {side: [c for c in text if c.isascii() and c.isalnum()] for side, text in (("b", before), ("a", after))}
    assert all(letter in body for side in letters.values() for letter in side)


def test_chat_without_a_template_goes_on_with_the_text(shammie, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nmore\n"))
    code, out, err = shammie("chat", "bare", "--max-new-tokens", "4")
    assert code == 0
    assert "has no chat template" in err
    assert out.count("> ") == 2


def test_chat_stops_where_the_context_ends(refused, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 600 + "\n"))
    assert "has room for 512" in refused("chat", "llama", "--max-new-tokens", "4")


def test_doctor_proves_a_model(shell):
    out = succeed(shell("doctor", "bare"))
    assert "identities hold" in out
    assert "sites: embedding, residual_in, attention_out, mlp_in, neurons, mlp_out, residual" in out


def test_doctor_exits_with_1_where_an_identity_fails(shammie, monkeypatch):
    from shammie.core import doctor

    broken = [doctor.Finding("stream", False, 0.5, 1e-4, "layers add up")]
    monkeypatch.setattr(doctor, "check", lambda _: broken)
    code, out, _ = shammie("doctor", "llama")
    assert code == 1
    assert "1 of 1 identities fail: stream" in out


def test_fetch_of_a_model_that_is_there(shell, tmp_path):
    made = tmp_path / "models" / "smollm2-135m"
    made.mkdir(parents=True)
    (made / "weights").write_text("x")
    (made / "source.json").write_text(json.dumps({"format": source_format(), "files": {"weights": 1}}))
    out = succeed(shell("fetch", "smollm2-135m", env={"SHAMMIE_CACHE": str(tmp_path)}))
    assert "Apache License 2.0" in out
    assert str(made) in out
    done = shell("fetch", "smollm3", env={"SHAMMIE_CACHE": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "shammie fetch: 'smollm3' is no bundled model; choose one of smollm2-135m, gemma-3-270m\n"


def source_format():
    from shammie.core.gguf import FORMAT

    return FORMAT


@pytest.mark.parametrize("line", [GENERATE, CAPTURE])
def test_dry_run_writes_nothing(line, shammie, tmp_path):
    code, out, _ = shammie(*line, "--output-dir", tmp_path / "never", "--dry-run")
    assert code == 0
    assert "memory" in out
    assert "time" in out
    assert not (tmp_path / "never").exists()


def test_a_patch_and_limits_reach_generate(shammie, generated, tmp_path):
    code, _, _ = shammie(*GENERATE, "--output-dir", tmp_path / "run", "--patch", "patch", "--limit", "3", "--chat")
    assert code == 0
    record = read_run(tmp_path / "run")
    assert len(record.results) == 3
    assert record.inputs["model"] != read_run(generated).inputs["model"]


def test_resume_of_a_finished_run_changes_nothing(generated, shammie):
    before = (generated / "results.jsonl").read_bytes(), (generated / "run.json").read_bytes()
    code, out, _ = shammie(*GENERATE, "--output-dir", "generated", "--resume")
    assert code == 0
    assert "results (6)" in out
    assert ((generated / "results.jsonl").read_bytes(), (generated / "run.json").read_bytes()) == before


def test_positions_and_dtype_reach_capture(shammie, tmp_path):
    import torch

    from shammie.core.harvest import Activations

    flags = ("--positions", "last", "--store-dtype", "bfloat16", "--limit", "4")
    assert shammie(*CAPTURE, "--output-dir", tmp_path / "run", *flags)[0] == 0
    shard = Activations(tmp_path / "run" / "artifacts" / "states")[0]
    assert len(shard.text) == 4
    assert {state.dtype for state in shard.states.values()} == {torch.bfloat16}


def test_a_resumed_run_sweeps_what_a_kill_left(shammie, tmp_path):
    line = (*GENERATE, "--output-dir", tmp_path / "run")
    assert shammie(*line)[0] == 0
    torn = tmp_path / "run" / "artifacts" / ".shard.safetensors.0123abcd.tmp"
    torn.parent.mkdir()
    torn.write_text("half")
    (tmp_path / "run" / "mine.tmp").write_text("kept")
    assert shammie(*line, "--resume")[0] == 0
    assert not torn.exists()
    assert (tmp_path / "run" / "mine.tmp").exists()


def test_replay_uses_the_recorded_number_of_threads(generated, shammie, tmp_path, monkeypatch):
    import torch

    from shammie.cli import running

    seen, execute = [], running.execute
    monkeypatch.setattr(running, "execute", lambda *words: (seen.append(torch.get_num_threads()), execute(*words))[1])
    copy = doctored(generated, tmp_path, lambda _: None)
    record = json.loads((copy / "run.json").read_text())
    before = torch.get_num_threads()
    for threads in (1, os.cpu_count(), os.cpu_count() + 1):
        record["machine"]["threads"] = threads
        (copy / "run.json").write_text(json.dumps(record))
        shammie("replay", copy)
    assert seen == [1, os.cpu_count(), before]
    assert torch.get_num_threads() == before


def test_a_terminal_gets_a_prompt_and_an_answer(workplace):
    import pty
    import subprocess
    import sys

    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "shammie.cli.main", "chat", "llama", "--max-new-tokens", "4"]
    with subprocess.Popen(
        line, cwd=workplace, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment()
    ) as process:
        os.close(theirs)
        shown = b""
        while b"> " not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, b"Hello\n")
        while shown.count(b"> ") < 2:
            shown += os.read(ours, 1024)
        os.write(ours, b"\x04")
        assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")
    os.close(ours)
    assert b"> Hello" in shown
