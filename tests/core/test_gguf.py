"""Conversion of GGUF files: what comes out, that it happens once, and that nothing broken is ever taken for whole."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from shammie.core import gguf
from shammie.core.errors import (
    BackendError,
    DataError,
    MissingFileError,
    NonFiniteError,
    ShammieError,
    UnsupportedModelError,
)

WIDTH, INNER, LAYERS, HEADS, GROUPS = 32, 48, 2, 4, 2
CONTROL = ["<|end|>", "<|start|>", "<|stop|>"]
MERGED = ["ĠĠ", "he", "ll"]
TEMPLATE = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|stop|>\n{% endfor %}"
TEXTS = ["hello world", " two  blanks", "naïve ☕\n\n\tend", "<|start|>user<|stop|>", "a  12 x 345", ""]


def weights(tied: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors under the names that llama.cpp gives them."""
    generator = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(vocabulary()), WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    if not tied:
        shapes["output.weight"] = (len(vocabulary()), WIDTH)
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (WIDTH,),
                "attn_q": (WIDTH, WIDTH),
                "attn_k": (WIDTH * GROUPS // HEADS, WIDTH),
                "attn_v": (WIDTH * GROUPS // HEADS, WIDTH),
                "attn_output": (WIDTH, WIDTH),
                "ffn_norm": (WIDTH,),
                "ffn_gate": (INNER, WIDTH),
                "ffn_up": (INNER, WIDTH),
                "ffn_down": (WIDTH, INNER),
            }.items()
        }
    return {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def vocabulary() -> list[str]:
    return [*CONTROL, *bytes_to_unicode().values(), *MERGED]


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray] | None = None,
    *,
    architecture: str = "llama",
    change: Callable[[gguf_package.GGUFWriter], None] = lambda _: None,
    tokenizer: bool = True,
) -> Path:
    """A whole small Llama as a GGUF file; `change` may add metadata."""
    writer = gguf_package.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary()))
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(vocabulary())
        writer.add_token_types([3] * len(CONTROL) + [1] * (len(vocabulary()) - len(CONTROL)))
        writer.add_token_merges(["Ġ Ġ", "h e", "l l"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(2)
        writer.add_add_bos_token(False)
        writer.add_chat_template(TEMPLATE)
    change(writer)
    if f"{architecture}.block_count" not in writer.kv_data[0]:
        writer.add_block_count(LAYERS)
    for name, tensor in (weights() if tensors is None else tensors).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def converted(tiny: Path, cache: Path) -> Path:
    return gguf.convert_gguf(tiny, cache=cache)


def made(cache: Path) -> list[str]:
    """Names of what a cache holds, but for its locks."""
    return sorted(path.name for path in cache.glob("models/gguf/*") if path.suffix != ".lock")


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


def test_the_directory_holds_the_same_model(tiny: Path, converted: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(converted)
    direct = AutoModelForCausalLM.from_pretrained(tiny.parent, gguf_file=tiny.name, dtype=torch.float32)
    ids = [5, 9, 40, 100, 255]
    assert plain.dtype == torch.float32
    assert torch.equal(logits(plain, ids), logits(direct, ids))
    assert not hasattr(plain.config, "quantization_config")
    # what was written, without transformers' reader in between
    assert torch.equal(plain.get_input_embeddings().weight, torch.from_numpy(weights()["token_embd.weight"]))
    assert torch.equal(plain.model.layers[1].mlp.down_proj.weight, torch.from_numpy(weights()["blk.1.ffn_down.weight"]))


def test_a_tied_file_gives_one_matrix(converted: Path) -> None:
    with safe_open(converted / "model.safetensors", framework="pt") as handle:
        names = set(handle.keys())
    assert "lm_head.weight" not in names
    assert "model.embed_tokens.weight" in names
    assert json.loads((converted / "config.json").read_text())["tie_word_embeddings"] is True
    assert gguf.read_source(converted)["tied"] is True
    model = AutoModelForCausalLM.from_pretrained(converted)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_an_untied_file_keeps_both_matrices(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "untied.gguf", weights(tied=False))
    directory = gguf.convert_gguf(path, cache=tmp_path)
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.tie_word_embeddings is False
    assert torch.equal(model.lm_head.weight, torch.from_numpy(weights(tied=False)["output.weight"]))


def test_the_tokenizer_comes_along(tiny: Path, converted: Path) -> None:
    plain = AutoTokenizer.from_pretrained(converted)
    direct = AutoTokenizer.from_pretrained(tiny.parent, gguf_file=tiny.name)
    for text in TEXTS:
        ids = plain(text).input_ids
        assert plain.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
        if "12" not in text:
            assert ids == direct(text).input_ids
    assert plain.convert_ids_to_tokens(plain("a  12").input_ids) == ["a", "ĠĠ", "1", "2"]  # as the model was trained
    assert plain.get_vocab() == direct.get_vocab()
    assert plain.special_tokens_map == direct.special_tokens_map
    assert plain.all_special_ids == direct.all_special_ids
    chat = [{"role": "user", "content": "hi"}]
    assert plain.apply_chat_template(chat, tokenize=False) == "<|start|>user\nhi<|stop|>\n"
    assert str(tiny.parent) not in (converted / "tokenizer_config.json").read_text()


def test_a_first_token_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "bos.gguf"
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "▁b", "ab", "▁ab"]

    def sentencepiece(writer: gguf_package.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([float(-i) for i in range(len(tokens))])
        writer.add_token_types([2, 3, 3] + [1] * 7)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(True)

    directory = gguf.convert_gguf(write_gguf(path, change=sentencepiece, tokenizer=False), cache=tmp_path)
    plain = AutoTokenizer.from_pretrained(directory)
    assert plain("ab").input_ids[0] == 1
    assert plain("ab").input_ids == AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)("ab").input_ids


def test_the_second_call_converts_nothing(
    tiny: Path, converted: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("convert_into", "read_header"):
        monkeypatch.setattr(gguf, name, None)
    assert gguf.convert_gguf(tiny, cache=cache) == converted


def test_the_same_bytes_elsewhere_are_not_converted_again(
    tiny: Path, converted: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "convert_into", None)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny.read_bytes())
    assert gguf.convert_gguf(copy, cache=cache) == converted


def test_other_bytes_at_the_same_path_are_converted(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    first = gguf.convert_gguf(path, cache=tmp_path)
    second = gguf.convert_gguf(write_gguf(path, weights(seed=1)), cache=tmp_path)
    assert first != second
    assert gguf.read_source(second)["sha256"] == gguf.files.sha256_file(path)
    with safe_open(second / "model.safetensors", framework="pt") as handle:
        stored = handle.get_tensor("model.embed_tokens.weight")
    assert torch.equal(stored, torch.from_numpy(weights(seed=1)["token_embd.weight"]))
    for text in ("[]", "3", "{}", '{"format": 1, "files": 7}', '{"files": {}}'):  # of some other program
        (tmp_path / "source.json").write_text(text)
        assert gguf.read_source(tmp_path) is None
    for victim in ("model.safetensors", "tokenizer.json", "source.json"):  # a damaged directory is made anew
        (second / victim).write_bytes(b"")
        assert gguf.read_source(second) is None
        assert gguf.convert_gguf(path, cache=tmp_path) == second
        assert gguf.read_source(second) is not None


def test_neighbours_of_the_file_are_not_mixed_in(tmp_path: Path, tiny: Path, cache: Path, converted: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"):
        (tmp_path / name).write_text('{"model_type": "gpt2", "bos_token": "WRONG", "eos_token_id": 77}')
    path = tmp_path / "with neighbours.gguf"
    path.write_bytes(tiny.read_bytes())
    directory = gguf.convert_gguf(path, cache=tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (directory / name).read_bytes() == (converted / name).read_bytes()


def test_conversion_is_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="shammie.core.gguf"):
        gguf.convert_gguf(write_gguf(tmp_path / "quiet.gguf"), cache=tmp_path)
    assert [record.message for record in caplog.records if record.name == "shammie.core.gguf"] == [
        "One-time conversion of quiet.gguf (0 MB) is under way"
    ]
    assert capfd.readouterr() == ("", "")


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in weights().items() if key != name}


def poisoned(value: float) -> dict[str, np.ndarray]:
    tensors = weights()
    tensors["blk.1.ffn_up.weight"][3, 4] = value
    return tensors


def write_cut(path: Path, keep: Callable[[int], int]) -> None:
    data = write_gguf(path).read_bytes()
    path.write_bytes(data[: keep(len(data))])


def write_patched(path: Path, at: int, data: bytes) -> None:
    whole = bytearray(write_gguf(path).read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


def write_unknown_type(path: Path) -> None:
    data = bytearray(write_gguf(path).read_bytes())
    name = b"output_norm.weight"
    at = data.index(name) + len(name) + 4 + 8  # after the name come the rank, one length, then the type
    data[at : at + 4] = (250).to_bytes(4, "little")
    path.write_bytes(data)


BROKEN: dict[str, tuple[Callable[[Path], Any], type[ShammieError], str]] = {
    "missing": (lambda _: None, MissingFileError, "not a file"),
    "directory": (lambda p: p.mkdir(), MissingFileError, "not a file"),
    "empty": (lambda p: p.write_bytes(b""), DataError, "empty file"),
    "short": (lambda p: p.write_bytes(b"GGUF\3\0\0\0"), DataError, "truncated"),
    "other format": (lambda p: p.write_bytes(b"PK" * 500), DataError, "GGUF magic invalid"),
    "zeros": (lambda p: p.write_bytes(b"GGUF\3\0\0\0" + bytes(500)), DataError, "no architecture"),
    "version": (lambda p: write_patched(p, 4, b"\1"), DataError, "version 1"),
    "huge counts": (lambda p: write_patched(p, 8, b"\xff" * 16), DataError, "not a readable GGUF"),
    "cut in the header": (lambda p: write_cut(p, lambda _: 700), DataError, "not a readable GGUF"),
    "cut in the weights": (lambda p: write_cut(p, lambda n: n // 2), DataError, "truncated"),
    "one value short": (lambda p: write_cut(p, lambda n: n - 64), DataError, "truncated"),
    "unknown storage": (write_unknown_type, DataError, "is not a valid GGMLQuantizationType"),
    "architecture": (lambda p: write_gguf(p, architecture="rwkv7"), UnsupportedModelError, "'rwkv7'"),
    "no language model": (lambda p: write_gguf(p, architecture="t5encoder"), UnsupportedModelError, "t5encoder"),
    "one of several parts": (
        lambda p: write_gguf(p, {k: v for k, v in weights().items() if "blk.1" not in k}), DataError, "join its parts"
    ),
    "rotary table": (
        lambda p: write_gguf(p, {**weights(), "rope_freqs.weight": np.ones(4, np.float32)}),
        UnsupportedModelError,
        "4 of its stored weights",
    ),
    "rotary scaling": (
        lambda p: write_gguf(p, change=lambda w: w.add_rope_scaling_type(gguf_package.RopeScalingType.LINEAR)),
        UnsupportedModelError,
        "linear stretch",
    ),
    "bias that Llama lacks": (
        lambda p: write_gguf(p, {**weights(), "blk.1.attn_q.bias": np.ones(WIDTH, np.float32)}),
        UnsupportedModelError,
        "32 of its stored weights",
    ),
    "absent tensor": (lambda p: write_gguf(p, without("blk.1.ffn_up.weight")), DataError, "layers.1.mlp.up_proj"),
    "wrong shape": (
        lambda p: write_gguf(p, {**weights(), "blk.0.ffn_up.weight": np.ones((7, WIDTH), np.float32)}),
        DataError,
        "mlp.up_proj.weight in shape [7, 32] where its metadata ask for [48, 32]",
    ),
    "no tokenizer": (lambda p: write_gguf(p, tokenizer=False), DataError, "tokenizer being broken"),
    "NaN": (lambda p: write_gguf(p, poisoned(float("nan"))), NonFiniteError, "layers.1.mlp.up_proj.weight"),
    "infinity": (lambda p: write_gguf(p, poisoned(float("inf"))), NonFiniteError, "layers.1.mlp.up_proj.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    write, kind, text = BROKEN[case]
    path = tmp_path / "broken.gguf"
    write(path)
    with pytest.raises(kind) as caught:
        gguf.convert_gguf(path, cache=tmp_path / "cache")
    message = str(caught.value)
    assert text in message
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    assert made(tmp_path / "cache") == []


def test_no_damage_to_the_header_escapes(tiny: Path, tmp_path: Path) -> None:
    """Cuts and changed bytes give a header or one of our sentences, never anything else."""
    data = tiny.read_bytes()
    head = data.index(b"token_embd.weight") + 200
    assert gguf.read_header(tiny).parameters == sum(tensor.size for tensor in weights().values())
    path = tmp_path / "damaged.gguf"
    dice = random.Random(0)
    for cut in range(0, head, 37):
        path.write_bytes(data[:cut])
        with pytest.raises(ShammieError):
            gguf.read_header(path)
    for _ in range(500):
        changed = bytearray(data)
        for _ in range(dice.choice((1, 1, 4))):
            changed[dice.randrange(head)] = dice.choice((0, 1, 8, 9, 127, 255, dice.randrange(256)))
        path.write_bytes(changed)
        with contextlib.suppress(ShammieError):
            gguf.read_header(path)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    check = gguf._check_finite
    monkeypatch.setattr(gguf, "_check_finite", lambda *args: (check(*args), path.write_bytes(b"other")))
    with pytest.raises(DataError, match="changed while it was converted"):
        gguf.convert_gguf(path, cache=tmp_path)
    assert made(tmp_path) == []


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendError, match=rf"{package}.*pip install 'shammie\[demo\]'"):
        gguf.convert_gguf(write_gguf(tmp_path / "m.gguf"), cache=tmp_path)


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = gguf.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(gguf.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ShammieError, match="are free"):
        gguf.convert_gguf(write_gguf(tmp_path / "m.gguf"), cache=tmp_path)
    assert made(tmp_path) == []


CHILD = """
import sys, time
from pathlib import Path
from shammie.core import gguf
path, cache, hang = Path(sys.argv[1]), Path(sys.argv[2]), len(sys.argv) > 3
convert = gguf.convert_into
def counted(*args, **kwargs):
    convert(*args, **kwargs)
    print("converted", flush=True)
    if hang:
        time.sleep(60)
gguf.convert_into = counted
print(gguf.convert_gguf(path, cache=cache).name, flush=True)
"""


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_make_one_directory(tiny: Path, tmp_path: Path) -> None:
    said = [process.communicate(timeout=50)[0].split() for process in [child(tiny, tmp_path), child(tiny, tmp_path)]]
    assert sorted(len(words) for words in said) == [1, 2]  # one converted, the other waited
    (name,) = {words[-1] for words in said}
    assert [entry for entry in made(tmp_path) if not entry.endswith(".json")] == [name]


def test_a_killed_conversion_is_not_taken_for_whole(tiny: Path, tmp_path: Path) -> None:
    process = child(tiny, tmp_path, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "converted\n"  # every file is written, the rename is not done
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (left,) = made(tmp_path)
    assert left.startswith(".")
    directory = gguf.convert_gguf(tiny, cache=tmp_path)
    assert gguf.read_source(directory) is not None
    assert not [name for name in made(tmp_path) if name.startswith(".")]  # and what was left is gone
