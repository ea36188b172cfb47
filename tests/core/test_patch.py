"""Weight patches: identical bytes after revert, composition, files, export, ties, and refusals that leave no trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import pico
from shammie.core import files
from shammie.core.anatomy import WeightSlice
from shammie.core.errors import (
    DataError,
    MismatchError,
    MissingFileError,
    NonFiniteError,
    RunError,
    ShammieError,
    SiteError,
)
from shammie.core.model import LanguageModel, load
from shammie.core.patch import Delta, WeightPatch, columns, dense, low_rank, rows

families = pytest.mark.parametrize("family", pico.FAMILIES)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


@cache
def fresh(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model of this file's own, which its tests change and change back."""
    return pico.build(family, seed=5, dtype=dtype)


def digest(model: LanguageModel) -> str:
    digests = []
    for name, tensor in sorted(model.module.state_dict().items()):
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        digests.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {files.sha256_bytes(raw)}")
    return files.sha256_bytes("\n".join(digests).encode())


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        return model.module(IDS).logits


def targets(model: LanguageModel) -> list[WeightSlice]:
    """Every kind of slice that the family stores: dense, fused, transposed, of an expert, of the vocabulary."""
    anatomy, found = model.anatomy, [model.anatomy.embedding_weights, model.anatomy.unembedding_weights]
    for layer in range(len(anatomy.layers)):
        for expert in (0, 3) if anatomy.is_sparse(layer) else (None,):
            weights = anatomy.mlp_weights(layer, expert)
            found += [part for part in (weights.gate, weights.read, weights.write) if part]
    return found


def noise(*shape: int, seed: int = 0, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def deltas(draw: st.DrawFn, places: int) -> list[tuple[int, str, int, list[float]]]:
    kinds = st.sampled_from(["rows", "columns", "low_rank", "dense"])
    fractions = st.lists(st.floats(0, 0.999), min_size=1, max_size=4)
    return draw(
        st.lists(st.tuples(st.integers(0, places - 1), kinds, st.integers(0, 99), fractions), min_size=1, max_size=4)
    )


def make(model: LanguageModel, drawn: list[tuple[int, str, int, list[float]]]) -> list[Delta]:
    """Random changes of random slices, of every kind."""
    made, places = [], targets(model)
    for place, kind, seed, fractions in drawn:
        target = places[place % len(places)]
        height, width = target.view(model.module).shape
        if kind == "low_rank":
            made.append(low_rank(target, noise(height, 2, seed=seed), noise(2, width, seed=seed + 1)))
        elif kind == "dense":
            made.append(dense(target, noise(height, width, seed=seed)))
        else:
            index = sorted({int(f * (height if kind == "rows" else width)) for f in fractions})
            shape = (len(index), width) if kind == "rows" else (height, len(index))
            made.append((rows if kind == "rows" else columns)(target, index, noise(*shape, seed=seed)))
    return made


def added(model: LanguageModel, made: list[Delta]) -> dict[str, Tensor]:
    """What the state dict must be after the changes, by plain indexing."""
    expected = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    for delta in made:
        target, parts = delta.target, delta.tensors
        stored = expected[target.parameter]
        matrix = stored if target.expert is None else stored[target.expert]
        oriented = (matrix.T if target.transposed else matrix)[target.start : target.stop : target.step]
        change = torch.zeros(oriented.shape)
        if delta.kind == "rows":
            change[parts["index"]] = parts["values"]
        elif delta.kind == "columns":
            change[:, parts["index"]] = parts["values"]
        else:
            change = parts["left"] @ parts["right"] if delta.kind == "low_rank" else parts["values"]
        oriented += change.to(oriented.dtype) if oriented.dtype == torch.float32 else 0
        if oriented.dtype != torch.float32:
            oriented.copy_((oriented.float() + change).to(oriented.dtype))
    return expected


# --- apply and revert -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@families
@settings(max_examples=6)
@given(drawn=deltas(20))
def test_revert_restores_every_byte(family: str, dtype: torch.dtype, drawn: list) -> None:
    """Rows, columns, low rank and dense; fused, transposed, expert and tied slices; in place, and back."""
    model = fresh(family, dtype)
    before, stored = digest(model), {name: t.data_ptr() for name, t in model.module.named_parameters()}
    made = make(model, drawn)
    expected = added(model, made)
    handle = WeightPatch.make(model, made, tied="both").apply(model)
    try:
        found = model.module.state_dict()
        changed = {delta.target.parameter for delta in made}
        if family in pico.TIED and changed & {p.parameter for p in targets(model)[:2]}:
            changed |= {p.parameter for p in targets(model)[:2]}
        for name in found:
            if name not in changed:
                assert torch.equal(found[name], expected[name]), name
            elif family not in pico.TIED:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-6)
        assert digest(model) != before
    finally:
        handle.revert()
    assert digest(model) == before
    assert {name: t.data_ptr() for name, t in model.module.named_parameters()} == stored


@families
def test_a_neuron_is_its_rows(family: str) -> None:
    """Silencing a neuron through its write row is scaling its activation to nothing."""
    from shammie.core.edit import edited, scale
    from shammie.core.site import neurons

    model = fresh(family)
    layer = 1 if family == "qwen3_moe" else 0
    expert = 2 if model.anatomy.is_sparse(layer) else None
    write = model.anatomy.mlp_weights(layer, expert).write
    row = write.view(model.module)[7]
    with WeightPatch.make(model, [rows(write, [7], -row[None])]).applied(model):
        assert not write.view(model.module)[7].any()
        patched = logits(model)
    assert not torch.equal(patched, logits(model))
    if expert is None:
        with edited(model, [scale(neurons(layer), 0.0, coordinates=[7])]):
            torch.testing.assert_close(logits(model), patched, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_oss", "gemma2"])
@settings(max_examples=6)
@given(first=deltas(20), second=deltas(20))
def test_composing_is_applying_in_turn(family: str, dtype: torch.dtype, first: list, second: list) -> None:
    model = fresh(family, dtype)
    before = digest(model)
    one, two = (WeightPatch.make(model, make(model, drawn), tied="both") for drawn in (first, second))
    with one.applied(model), two.applied(model, any_model=True):
        in_turn = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    composed = one.compose(two)
    assert composed.provenance["composed"] == [one.hash, two.hash]
    with composed.applied(model):
        for name, tensor in model.module.state_dict().items():
            torch.testing.assert_close(tensor, in_turn[name], rtol=1e-6, atol=1e-6)
    assert digest(model) == before


def test_float64_models_lose_nothing() -> None:
    """Only the named row changes, and by the change in full."""
    model = fresh("llama", torch.float64)
    target = model.anatomy.mlp_weights(0).read
    former = target.view(model.module).clone()
    change = noise(48, 32).double() * 1e-9
    with WeightPatch.make(model, [dense(target, change)]).applied(model):
        assert torch.equal(target.view(model.module), former + change)


# --- hashes ---------------------------------------------------------------------------------------------------------


def test_hashes_name_the_weights_in_force() -> None:
    model = pico.build("llama")
    stored = model.hash
    target = model.anatomy.mlp_weights(0).read
    one = WeightPatch.make(model, [rows(target, [1], noise(1, 32))])
    assert one.model_hash == stored == model.stored_hash
    with one.applied(model):
        assert model.patches == [one.hash]
        assert model.stored_hash == stored
        assert model.hash == files.sha256_bytes(f"{stored}\n{one.hash}".encode())
        two = WeightPatch.make(model, [rows(target, [1], noise(1, 32))])
        assert two.model_hash == model.hash
        assert two.hash != one.hash  # the same change of other weights
        with two.applied(model):
            assert model.hash == files.sha256_bytes(f"{stored}\n{one.hash}\n{two.hash}".encode())
        assert model.hash == two.model_hash
    assert (model.hash, model.patches) == (stored, [])


def test_the_hash_of_a_model_is_taken_before_its_first_change() -> None:
    """Also where the patch is not compared with it."""
    first, second = pico.build("llama"), pico.build("llama")
    target = first.anatomy.mlp_weights(0).read
    patch = WeightPatch((rows(target, [0], noise(1, 32)),), "of another model")
    handle = patch.apply(first, any_model=True)
    assert first.stored_hash == second.hash
    handle.revert()


@pytest.mark.parametrize(
    "change",
    [
        lambda target: rows(target, [2], noise(1, 32)),
        lambda target: rows(target, [1], noise(1, 32, seed=1)),
        lambda target: rows(target, [1], noise(1, 32).double()),
        lambda target: rows(WeightSlice(target.parameter, stop=40), [1], noise(1, 32)),
        lambda target: columns(target, [1], noise(48, 1)),
    ],
)
def test_hashes_tell_patches_apart(change: Callable[[WeightSlice], Delta]) -> None:
    model = fresh("llama")
    target = model.anatomy.mlp_weights(0).read
    one = WeightPatch.make(model, [rows(target, [1], noise(1, 32))], why="this")
    assert one.hash == WeightPatch.make(model, [rows(target, [1], noise(1, 32))], why="that").hash
    assert one.hash != WeightPatch.make(model, [change(target)]).hash
    assert one.hash != WeightPatch.make(model, [rows(target, [1], noise(1, 32))], tied="both").hash


# --- files ----------------------------------------------------------------------------------------------------------


@families
@settings(max_examples=3)
@given(drawn=deltas(20))
def test_saving_and_loading(family: str, drawn: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    model, directory = fresh(family), tmp_path_factory.mktemp("patch") / "patch"
    patch = WeightPatch.make(model, make(model, drawn), tied="both", reason="a test")
    patch.save_pretrained(directory)
    read = WeightPatch.from_pretrained(directory)
    assert (read.hash, read.model_hash, read.tied) == (patch.hash, patch.model_hash, "both")
    assert read.provenance["reason"] == "a test"
    with patch.applied(model):
        once = digest(model)
    with read.applied(model):
        assert digest(model) == once


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = fresh("llama")
    WeightPatch.make(model, [rows(model.anatomy.mlp_weights(0).read, [1], noise(1, 32))]).save_pretrained(
        tmp_path / "patch"
    )
    return tmp_path / "patch"


def test_overwriting_is_asked_for(saved: Path) -> None:
    patch = WeightPatch.from_pretrained(saved)
    with pytest.raises(RunError, match="already exists"):
        patch.save_pretrained(saved)
    patch.save_pretrained(saved, overwrite=True)
    assert WeightPatch.from_pretrained(saved).hash == patch.hash


def broken_config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        change(config)
        (directory / "config.json").write_text(json.dumps(config))

    return damage


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (lambda d: (d / "model.safetensors").write_bytes(b"short"), DataError, "corrupt"),
        (lambda d: (d / "model.safetensors").unlink(), MissingFileError, "model.safetensors is missing"),
        (lambda d: (d / "config.json").unlink(), MissingFileError, "config.json is missing"),
        (lambda d: (d / "config.json").write_text("{"), DataError, "config.json, line 1"),
        (broken_config(lambda c: c.update(kind="truth_space")), MismatchError, "holds a truth_space artifact"),
        (broken_config(lambda c: c["config"].pop("deltas")), DataError, "is no whole patch"),
        (broken_config(lambda c: c["config"].pop("tied")), DataError, "is no whole patch"),
        (broken_config(lambda c: c["config"]["deltas"][0].update(kind="magic")), DataError, "is no whole patch"),
        (broken_config(lambda c: c["config"]["deltas"][0].pop("target")), DataError, "is no whole patch"),
        (broken_config(lambda c: c["config"]["deltas"][0]["target"].update(colour=1)), DataError, "is no whole patch"),
        (
            broken_config(lambda c: c["config"]["deltas"].append(c["config"]["deltas"][0])),
            DataError,
            "is no whole patch",
        ),
        (broken_config(lambda c: c["provenance"].pop("model_hash")), DataError, "is no whole patch"),
    ],
)
def test_broken_patches_are_refused(
    saved: Path, damage: Callable[[Path], None], kind: type[ShammieError], said: str
) -> None:
    damage(saved)
    with pytest.raises(kind, match=said) as caught:
        WeightPatch.from_pretrained(saved)
    assert type(caught.value) is kind
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_patch_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="holds no weight_patch artifact"):
        WeightPatch.from_pretrained(tmp_path)


# --- export ---------------------------------------------------------------------------------------------------------


def exported(model: LanguageModel, patch: WeightPatch, directory: Path) -> Tensor:
    """The logits of the export, read by transformers alone; the model itself is as before."""
    before, hash_before, flag = digest(model), model.hash, model.module.config.tie_word_embeddings
    with patch.applied(model):
        expected, hash_patched = logits(model), model.hash
    patch.export(model, directory)
    assert (digest(model), model.hash, model.module.config.tie_word_embeddings) == (before, hash_before, flag)
    note = json.loads((directory / "shammie.json").read_text())
    assert files.sha256_bytes("\n".join([note["weights"], *note["patches"]]).encode()) == hash_patched
    plain = AutoModelForCausalLM.from_pretrained(directory).eval()
    assert AutoTokenizer.from_pretrained(directory)("hi")["input_ids"] == model.tokenizer("hi")["input_ids"]
    with torch.no_grad():
        found = plain(IDS).logits
    assert torch.equal(found, expected)
    return found


@families
def test_export_is_a_plain_checkpoint(family: str, tmp_path: Path) -> None:
    model, place = fresh(family), targets(fresh(family))
    some = [
        low_rank(target, noise(target.view(model.module).shape[0], 1), noise(1, 32, seed=1)) for target in place[2:5]
    ]
    found = exported(model, WeightPatch.make(model, some), tmp_path / "out")
    assert not torch.equal(found, logits(model))


@pytest.mark.parametrize("family", [*pico.TIED, "llama"])
@pytest.mark.parametrize("tied", ["both", "input", "output"])
def test_export_of_tied_embeddings(family: str, tied: str, tmp_path: Path) -> None:
    """`both` leaves one matrix; `input` and `output` leave two, also after reading them back."""
    model = pico.build(family, seed=2, tie_word_embeddings=True)
    anatomy = model.anatomy
    assert anatomy.tied
    target = anatomy.unembedding_weights if tied == "output" else anatomy.embedding_weights
    patch = WeightPatch.make(model, [rows(target, [6, 200], noise(2, 32, scale=2.0))], tied=tied)  # type: ignore[arg-type]
    former = anatomy.embedding.weight.detach().clone()
    exported(model, patch, tmp_path / "out")
    assert anatomy.tied
    again = load(tmp_path / "out")
    assert again.anatomy.tied == (tied == "both")
    assert again.module.config.tie_word_embeddings == (tied == "both")
    inputs, outputs = again.anatomy.embedding.weight.detach(), again.anatomy.unembedding.weight.detach()
    changed = torch.zeros(260, dtype=torch.bool)
    changed[[6, 200]] = True
    for side, matrix in (("input", inputs), ("output", outputs)):
        assert torch.equal(matrix[~changed], former[~changed])
        assert torch.equal(matrix[changed], former[changed]) == (tied not in (side, "both"))
    saved_twice = tmp_path / "twice"
    again.module.save_pretrained(saved_twice)
    third = AutoModelForCausalLM.from_pretrained(saved_twice).eval()
    assert torch.equal(third.get_input_embeddings().weight, inputs)
    assert torch.equal(third.get_output_embeddings().weight, outputs)


def test_export_into_a_full_directory_changes_nothing(tmp_path: Path) -> None:
    model = fresh("llama")
    before = digest(model)
    patch = WeightPatch.make(model, [rows(model.anatomy.mlp_weights(0).read, [1], noise(1, 32))])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="already exists and is not empty"):
        patch.export(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (digest(model), model.patches) == (before, [])


# --- ties -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", pico.TIED)
def test_one_side_of_a_tie(family: str) -> None:
    model = fresh(family)
    anatomy, before = model.anatomy, digest(fresh(family))
    weight, flag = anatomy.embedding.weight, model.module.config.tie_word_embeddings
    row = weight[9].detach().clone()
    change = [rows(anatomy.embedding_weights, [9], noise(1, 32))]
    with WeightPatch.make(model, change, tied="input").applied(model):
        assert not anatomy.tied
        assert torch.equal(anatomy.unembedding.weight[9], row)
        assert not torch.equal(anatomy.embedding.weight[9], row)
        assert anatomy.embedding.weight is weight
    with WeightPatch.make(model, [rows(anatomy.unembedding_weights, [9], noise(1, 32))], tied="output").applied(model):
        assert torch.equal(anatomy.embedding.weight[9], row)
        assert not torch.equal(anatomy.unembedding.weight[9], row)
        inner = WeightPatch.make(model, change)  # untied by now: nothing to decide
        with inner.applied(model):
            assert not torch.equal(anatomy.embedding.weight[9], row)
    with WeightPatch.make(model, change, tied="both").applied(model):
        assert anatomy.tied
    assert anatomy.unembedding.weight is anatomy.embedding.weight is weight
    assert model.module.config.tie_word_embeddings == flag
    assert digest(model) == before


@pytest.mark.parametrize("family", pico.TIED)
def test_a_tie_must_be_decided(family: str) -> None:
    model = fresh(family)
    before = digest(model)
    for target in (model.anatomy.embedding_weights, model.anatomy.unembedding_weights):
        patch = WeightPatch.make(model, [rows(target, [9], noise(1, 32))])
        with pytest.raises(
            MismatchError, match=r"ties its input and output.*say which with tied='both', 'input' or 'output'"
        ):
            patch.apply(model)
    astray = WeightPatch.make(model, [rows(model.anatomy.embedding_weights, [9], noise(1, 32))], tied="output")
    with pytest.raises(MismatchError, match=r"tied='output' leaves .* alone, but the patch changes it"):
        astray.apply(model)
    assert model.anatomy.tied
    assert (digest(model), model.patches) == (before, [])
    inner = WeightPatch.make(model, [rows(targets(model)[2], [1], noise(1, 32))])
    with inner.applied(model):  # a patch that leaves the embeddings alone has nothing to decide
        assert model.anatomy.tied


# --- refusals -------------------------------------------------------------------------------------------------------


def test_another_model_is_refused_unless_wanted() -> None:
    model, other = fresh("llama"), pico.build("llama", seed=9)
    patch = WeightPatch.make(model, [rows(model.anatomy.mlp_weights(0).read, [1], noise(1, 32))])
    before = digest(other)
    with pytest.raises(
        MismatchError, match=f"made for weights {model.hash[:12]} .LlamaForCausalLM., but .* now has {other.hash[:12]}"
    ):
        patch.apply(other)
    assert digest(other) == before
    with patch.applied(other, any_model=True):
        assert digest(other) != before
        assert other.patches == [patch.hash]
    with patch.applied(model), pytest.raises(MismatchError, match="pass any_model=True"):
        patch.apply(model)  # its own model, but no longer as it was
    assert digest(other) == before


def test_last_applied_is_first_reverted() -> None:
    model = fresh("llama")
    before, target = digest(model), model.anatomy.mlp_weights(0).read
    patch = WeightPatch.make(model, [rows(target, [1], noise(1, 32))])
    other = WeightPatch.make(model, [rows(target, [1], noise(1, 32, seed=1))])
    handles = [patch.apply(model), other.apply(model, any_model=True), patch.apply(model, any_model=True)]
    for early in handles[:2]:
        with pytest.raises(ShammieError, match="revert patches in the opposite order of applying them"):
            early.revert()
    for handle in reversed(handles):
        handle.revert()
    for handle in handles:
        with pytest.raises(ShammieError, match=r"opposite order|not in force"):
            handle.revert()
    assert (digest(model), model.patches) == (before, [])


def test_the_same_patch_twice_is_reverted_in_order() -> None:
    """Equal hashes do not confuse the order."""
    model = fresh("llama")
    before = digest(model)
    patch = WeightPatch.make(model, [rows(model.anatomy.mlp_weights(0).read, [1], noise(1, 32))])
    first = patch.apply(model)
    once = digest(model)
    second = patch.apply(model, any_model=True)
    with pytest.raises(ShammieError, match="opposite order"):
        first.revert()
    second.revert()
    with pytest.raises(ShammieError, match=r"opposite order|not in force"):
        second.revert()
    assert digest(model) == once
    first.revert()
    assert (digest(model), model.patches) == (before, [])


def test_an_exception_reverts() -> None:
    model = fresh("llama")
    before = digest(model)
    patch = WeightPatch.make(model, [rows(model.anatomy.mlp_weights(0).read, [1], noise(1, 32))])
    with pytest.raises(KeyError, match="mine"), patch.applied(model):
        raise KeyError("mine")
    assert (digest(model), model.patches) == (before, [])


def slices() -> Iterator[tuple[str, Callable[[LanguageModel], object], str]]:
    """Changes that fit no weights: family, change, what is said."""
    read = WeightSlice("model.layers.0.mlp.up_proj.weight")
    fused = "model.layers.0.mlp.experts.gate_up_proj"
    yield "llama", lambda _: [rows(read, [48], noise(1, 32))], "row 48 of .*up_proj.weight does not exist; it has 48"
    yield "llama", lambda _: [rows(read, [3, -1], noise(2, 32))], "row -1 of .*up_proj.weight does not exist"
    yield "llama", lambda _: [columns(read, [32], noise(48, 1))], "column 32 of .*does not exist; it has 32"
    yield "llama", lambda _: [rows(read, [0], noise(1, 31))], r"has shape \(1, 31\), the weights it changes \(1, 32\)"
    yield (
        "llama",
        lambda _: [rows(read, [0, 1], noise(1, 32))],
        r"has shape \(1, 32\), the weights it changes \(2, 32\)",
    )
    yield (
        "llama",
        lambda _: [columns(read, [0], noise(47, 1))],
        r"has shape \(47, 1\), the weights it changes \(48, 1\)",
    )
    yield "llama", lambda _: [dense(read, noise(32, 48))], r"has shape \(32, 48\), the weights it changes \(48, 32\)"
    yield "llama", lambda _: [low_rank(read, noise(48, 2), noise(2, 31))], r"has shape \(48, 31\)"
    yield (
        "llama",
        lambda _: [dense(WeightSlice("model.layers.9.mlp.up_proj.weight"), noise(48, 32))],
        "has no weight model.layers.9",
    )
    yield (
        "llama",
        lambda _: [dense(WeightSlice("model.layers.0.mlp"), noise(48, 32))],
        "has no weight model.layers.0.mlp",
    )
    yield "llama", lambda _: [dense(WeightSlice("model.norm.weight"), noise(1, 32))], "model.norm.weight is no matrix"
    yield "llama", lambda _: [dense(WeightSlice(read.parameter, expert=1), noise(48, 32))], "has no expert 1"
    yield (
        "mixtral",
        lambda _: [dense(WeightSlice(fused), noise(96, 32))],
        "gate_up_proj is no matrix.*name one of its 4 experts",
    )
    yield "mixtral", lambda _: [dense(WeightSlice(fused, transposed=True), noise(96, 32))], "gate_up_proj is no matrix"
    yield (
        "mixtral",
        lambda _: [dense(WeightSlice(fused, expert=4), noise(96, 32))],
        "gate_up_proj has no expert 4; it has 0 to 3",
    )
    yield "mixtral", lambda _: [dense(WeightSlice(fused, expert=-1), noise(96, 32))], "gate_up_proj has no expert -1"


@pytest.mark.parametrize(("family", "change", "said"), list(slices()))
def test_changes_that_fit_no_weights(family: str, change: Callable[[LanguageModel], list[Delta]], said: str) -> None:
    """Refused when made and, for patches from elsewhere, when applied."""
    model = fresh(family)
    before = digest(model)
    with pytest.raises(SiteError, match=said) as caught:
        WeightPatch.make(model, change(model))
    assert "\n" not in str(caught.value)
    good = rows(model.anatomy.mlp_weights(1, 0 if family == "mixtral" else None).read, [1], noise(1, 32))
    with pytest.raises(SiteError, match=said):
        WeightPatch((good, *change(model)), model.hash).apply(model)
    assert (digest(model), model.patches) == (before, [])


def test_changes_that_are_no_changes() -> None:
    read = WeightSlice("model.layers.0.mlp.up_proj.weight")
    with pytest.raises(NonFiniteError, match=r"the change of .*up_proj.weight holds NaN or infinity"):
        rows(read, [0], torch.full((1, 32), float("nan")))
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        low_rank(read, torch.full((48, 1), float("inf")), noise(1, 32))
    with pytest.raises(ShammieError, match="names a row twice; add them up first"):
        rows(read, [3, 3], noise(2, 32))
    with pytest.raises(ShammieError, match="names a column twice; add them up first"):
        columns(read, [3, 4, 3], noise(48, 3))


def test_arguments_that_type_checks_would_catch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the tests nothing checks types, so these mistakes must be sentences too."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model, read = fresh("llama"), WeightSlice("model.layers.0.mlp.up_proj.weight")
    with pytest.raises(ShammieError, match="tied='neither' is not one of both, input, output"):
        WeightPatch.make(model, [], tied="neither")  # type: ignore[arg-type]
    with pytest.raises(SiteError, match=r"the two factors of the change of .*up_proj.weight differ in rank"):
        WeightPatch.make(model, [low_rank(read, noise(48, 2), noise(3, 32))])


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 6e4), (torch.float16, 1e30), (torch.bfloat16, 3.3e38), (torch.float32, 3.3e38)]
)
@pytest.mark.parametrize("kind", ["rows", "columns", "low_rank", "dense"])
def test_overflow_leaves_the_model_as_it_was(dtype: torch.dtype, size: float, kind: str) -> None:
    """The second change overflows; the first is taken back."""
    model = pico.build("llama", dtype=dtype)
    target = model.anatomy.mlp_weights(2).write
    with torch.no_grad():
        target.view(model.module)[4, 4] = 5e4 if dtype == torch.float16 else 3e38
    before = digest(model)
    values = torch.full((48, 32), size)
    change = {
        "rows": lambda: rows(target, [4], values[:1]),
        "columns": lambda: columns(target, [4], values[:, :1]),
        "low_rank": lambda: low_rank(target, torch.full((48, 1), size), torch.ones(1, 32)),
        "dense": lambda: dense(target, values),
    }[kind]()
    good = dense(model.anatomy.mlp_weights(0).read, noise(48, 32))
    patch = WeightPatch((good, change, good), "any")
    with pytest.raises(NonFiniteError, match=f"the patch makes .*down_proj.weight infinite or NaN in {dtype}"):
        patch.apply(model, any_model=True)
    assert (digest(model), model.patches) == (before, [])


def test_a_failure_half_way_ties_again() -> None:
    model = fresh("gpt2")
    before, weight = digest(model), model.anatomy.embedding.weight
    good = rows(model.anatomy.embedding_weights, [1], noise(1, 32))
    bad = rows(model.anatomy.mlp_weights(0).read, [99], noise(1, 32))
    with pytest.raises(SiteError, match="row 99"):
        WeightPatch((good, bad), model.hash, "input").apply(model)
    assert model.anatomy.unembedding.weight is model.anatomy.embedding.weight is weight
    assert model.module.config.tie_word_embeddings
    assert (digest(model), model.patches) == (before, [])


def test_compositions_that_make_no_sense() -> None:
    model, other = fresh("gpt2"), pico.build("gpt2", seed=1)
    change = [rows(model.anatomy.embedding_weights, [1], noise(1, 32))]
    one = WeightPatch.make(model, change, tied="input")
    with pytest.raises(MismatchError, match="made for different weights cannot be composed"):
        one.compose(WeightPatch.make(other, change, tied="input"))
    with pytest.raises(MismatchError, match=r"treat tied embeddings differently \(input, both\) cannot be composed"):
        one.compose(WeightPatch.make(model, change, tied="both"))
    undecided = WeightPatch.make(model, [rows(targets(model)[2], [1], noise(1, 32))])
    assert one.compose(undecided).tied == undecided.compose(one).tied == "input"
