"""Harvests: states text by text, whatever the batches and shards, and refusals of what does not belong together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pico
from shammie.core import files
from shammie.core.batch import encode, make_batch
from shammie.core.capture import capture
from shammie.core.edit import Edit, edited
from shammie.core.errors import (
    DataError,
    MismatchError,
    MissingFileError,
    NonFiniteError,
    RunError,
    ShammieError,
    SiteError,
)
from shammie.core.harvest import Activations, Harvest, harvest, stream
from shammie.core.patch import WeightPatch, rows
from shammie.core.position import LAST, Mask, Positions, RowSpans, Span
from shammie.core.site import Site, embedding, expert_neurons, mlp_out, neurons, residual, router

TEXTS = ["The river was high.", "a", "Naïve ☕ drinkers", "", "Two and two", "ab", "x" * 30]
FULL = [text for text in TEXTS if text]
SITES = [residual(0), mlp_out(1), neurons(2)]


def one_by_one(family: str, texts: Sequence[str], sites: Sequence[Site], cut: int = 512) -> list[dict[Site, Tensor]]:
    model = pico.shared(family)
    seen = [capture(model, make_batch(model, [text]), sites) for text in texts]
    return [{site: one[site][0, :cut].flatten(1) for site in sites} for one in seen]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


# --- what is in it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "opt"])
def test_states_are_those_of_each_text(family: str, tmp_path: Path) -> None:
    model, alone = pico.shared(family), one_by_one(family, FULL, SITES)
    made = harvest(model, FULL, SITES, tmp_path, texts_per_shard=2)
    assert len(made) == 3
    assert made.sites == SITES
    where = []
    for shard in made:
        for n in range(len(shard.text)):
            text, position = int(shard.text[n]), int(shard.position[n])
            where.append((text, position))
            assert int(shard.token[n]) == encode(model, FULL[text])[position]
            for site in SITES:
                torch.testing.assert_close(shard.states[site][n], alone[text][site][position], rtol=1e-5, atol=1e-5)
    assert where == [(text, p) for text in range(len(FULL)) for p in range(len(encode(model, FULL[text])))]
    assert made.tokens == len(where)


def test_sparse_sites_are_flat(tmp_path: Path) -> None:
    places = [embedding(), router(0), expert_neurons(2, (3, 1))]
    alone = one_by_one("mixtral", FULL[:2], places)
    shard = harvest(pico.shared("mixtral"), FULL[:2], places, tmp_path)[0]
    assert [shard.states[site].shape[1] for site in places] == [32, 4, 96]
    for site in places:
        torch.testing.assert_close(shard.states[site], torch.cat([one[site] for one in alone]), rtol=1e-4, atol=1e-5)


@settings(max_examples=12)
@given(
    texts=st.lists(st.text("abcdefgh ", min_size=1, max_size=25), min_size=1, max_size=9),
    per_shard=st.integers(1, 10),
    cut=st.integers(1, 30),
    skip=st.integers(0, 4),
)
def test_any_texts_shards_and_cuts(
    texts: list[str], per_shard: int, cut: int, skip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, directory = pico.shared("llama"), tmp_path_factory.mktemp("harvest")
    alone = one_by_one("llama", texts, [residual(1)], cut)
    work = Harvest(model, texts, [residual(1)], directory, texts_per_shard=per_shard, max_tokens=cut, skip_first=skip)
    said = [work.write(key) for key in reversed(work.shards)][::-1]
    made = work.finish()
    kept = [(t, p) for t, text in enumerate(texts) for p in range(skip, min(cut, len(text.encode())))]
    where = [(int(t), int(p)) for shard in made for t, p in zip(shard.text, shard.position, strict=True)]
    assert where == kept
    assert made.tokens == sum(one["tokens"] for one in said) == len(kept)
    assert sum(one["texts_cut"] for one in said) == sum(len(text) > cut for text in texts)
    if kept:
        found = torch.cat([shard.states[residual(1)] for shard in made])
        expected = torch.stack([alone[t][residual(1)][p] for t, p in kept])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected_bytes = work.estimate()
    assert expected_bytes["shards"] == len(made) == -(-len(texts) // per_shard)
    assert expected_bytes["tokens"] == sum(min(cut, len(text)) for text in texts)


@pytest.mark.parametrize("budget", [1, 20, 64, 10_000])
def test_batches_do_not_matter(budget: int) -> None:
    """Each text's states are the same in whatever batch it runs."""
    model = pico.shared("mistral")
    whole = torch.cat([b[residual(2)] for b in stream(model, sorted(FULL, key=len)[::-1], [residual(2)])])
    parts = list(stream(model, sorted(FULL, key=len)[::-1], [residual(2)], batch_tokens=budget))
    torch.testing.assert_close(torch.cat([b[residual(2)] for b in parts]), whole, rtol=1e-4, atol=1e-5)
    assert all(len(b.row.unique()) == 1 for b in parts) == (budget == 1)


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
def test_stored_dtype(dtype: str | None, tmp_path: Path) -> None:
    model = pico.build("llama", dtype=torch.bfloat16)
    made = harvest(model, FULL[:2], [residual(0)], tmp_path, dtype=dtype)
    states = made[0].states[residual(0)]
    assert str(states.dtype) == f"torch.{dtype or 'bfloat16'}"
    assert made.index["dtype"] == str(states.dtype).removeprefix("torch.")
    live = capture(model, make_batch(model, FULL[:1]), [residual(0)])[residual(0)][0]
    torch.testing.assert_close(states[: len(live)].float(), live.float(), rtol=1e-2, atol=1e-2)


def test_repetition_gives_identical_bytes(tmp_path: Path) -> None:
    model = pico.shared("gemma2")
    for name in ("one", "two"):
        harvest(model, FULL, SITES, tmp_path / name, texts_per_shard=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    before = contents(tmp_path / "one")
    harvest(model, FULL, SITES, tmp_path / "one", texts_per_shard=2)
    assert contents(tmp_path / "one") == before


def test_only_what_is_missing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico.shared("llama")
    harvest(model, FULL, SITES, tmp_path, texts_per_shard=2)
    before = contents(tmp_path)
    (tmp_path / "shard-00001.safetensors").unlink()
    (tmp_path / "index.json").unlink()
    written = []
    real = Harvest.write
    monkeypatch.setattr(Harvest, "write", lambda self, key: written.append(key) or real(self, key))
    harvest(model, FULL, SITES, tmp_path, texts_per_shard=2)
    assert written == ["shard-00001"]
    assert contents(tmp_path) == before


POSITIONS: list[tuple[Positions, Callable[[int, int, int], bool]]] = [
    (LAST, lambda _t, p, n: p == n - 1),
    (Span(1, 4), lambda _t, p, _n: 1 <= p < 4),
    (RowSpans(tuple((t % 3, t % 3 + 2) for t in range(6))), lambda t, p, _n: t % 3 <= p < t % 3 + 2),
    (Mask(torch.arange(6)[:, None] % 2 == torch.arange(40) % 2), lambda t, p, _n: t % 2 == p % 2),
]


@pytest.mark.parametrize(("positions", "kept"), POSITIONS)
def test_positions_count_texts_over_the_whole_corpus(
    positions: Positions, kept: Callable[[int, int, int], bool], tmp_path: Path
) -> None:
    """Spans given text by text mean the same in whatever shard the text stands; texts without a token are passed over."""
    expected = [(t, p) for t, text in enumerate(FULL) for n in (len(text.encode()),) for p in range(n) if kept(t, p, n)]
    assert {t for t, _ in expected} != set(range(6)) or positions is LAST
    for per_shard in (1, 2, 6):
        made = harvest(
            pico.shared("llama"),
            FULL,
            [residual(0)],
            tmp_path / str(per_shard),
            positions=positions,
            texts_per_shard=per_shard,
        )
        found = [(int(t), int(p)) for shard in made for t, p in zip(shard.text, shard.position, strict=True)]
        assert found == expected


def test_a_shard_of_nothing(tmp_path: Path) -> None:
    made = harvest(
        pico.shared("mixtral"), ["ab", "c", "d"], [router(0), residual(1)], tmp_path, skip_first=1, texts_per_shard=1
    )
    assert [len(shard.text) for shard in made] == [1, 0, 0]
    assert made[1].states[router(0)].shape == (0, 4)
    assert made.tokens == 1


def test_edits_in_force_are_harvested(tmp_path: Path) -> None:
    model = pico.shared("llama")
    edit = Edit(residual(0), lambda state, _p, _r: state + 1)
    with edited(model, [edit]):
        under = harvest(model, FULL, [residual(0)], tmp_path / "edited", texts_per_shard=9)
    plain = harvest(model, FULL, [residual(0)], tmp_path / "plain", texts_per_shard=9)
    torch.testing.assert_close(under[0].states[residual(0)], plain[0].states[residual(0)] + 1)
    with pytest.raises(RunError, match=r"another edits \(1\)"):
        harvest(model, FULL, [residual(0)], tmp_path / "edited", texts_per_shard=9)


# --- what is refused ------------------------------------------------------------------------------------------------


def nothing_written(directory: Path) -> bool:
    return not [path for path in directory.glob("*") if path.name != "plan.json"]


@pytest.mark.parametrize(
    ("texts", "sites", "options", "kind", "said"),
    [
        ([], [residual(0)], {}, DataError, "no texts to read"),
        (["a", ""], [residual(0)], {}, DataError, "the text '' has no tokens"),
        (["a"], [residual(3)], {}, SiteError, "layer 3 does not exist"),
        (["a"], [router(0)], {}, SiteError, "router:0 does not exist"),
        (["a"], [], {}, SiteError, "nothing to capture"),
        (["a"], [residual(0)], {"dtype": "int8"}, DataError, "dtype 'int8' is not one of float32, bfloat16, float16"),
        (["a"], [residual(0)], {"positions": LAST, "skip_first": 1}, SiteError, "either positions or skip_first"),
        (["a"], [residual(0)], {"skip_first": -1}, DataError, "skip_first not negative"),
        (["a"], [residual(0)], {"max_tokens": 0}, DataError, "max_tokens must be at least 1"),
        (["a"], [residual(0)], {"texts_per_shard": 0}, DataError, "texts_per_shard and max_tokens must be at least 1"),
        (["a"] * 3, [residual(0)], {"positions": RowSpans(((0, 1),)), "texts_per_shard": 2}, SiteError, "given for 1 prompts"),
    ],
)  # fmt: skip
def test_harvests_that_cannot_be(
    texts: list[str], sites: list[Site], options: dict, kind: type[ShammieError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said):
        harvest(pico.shared("llama"), texts, sites, tmp_path, **options)
    assert nothing_written(tmp_path)


CHANGES: list[tuple[str, dict]] = [
    ("sites", {"sites": [residual(1)]}),
    ("positions", {"positions": LAST}),
    ("positions", {"skip_first": 1}),
    ("dtype", {"dtype": "float16"}),
    ("texts_sha256", {"texts": ["A", *FULL[1:]]}),
    ("texts", {"texts": FULL[:-1]}),
    ("texts_per_shard", {"texts_per_shard": 3}),
    ("max_tokens", {"max_tokens": 5}),
    ("model_hash", {"model": "other"}),
]


@pytest.mark.parametrize("finished", [False, True], ids=["unfinished", "finished"])
@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_another_plan_in_the_same_directory(name: str, change: dict, finished: bool, tmp_path: Path) -> None:
    """Refused whether shards are missing or all are there, and nothing is touched."""
    options = {"sites": [residual(0)], "texts": FULL, "texts_per_shard": 2, **change}
    model = pico.build("llama", seed=3) if options.pop("model", None) else pico.shared("llama")
    if finished:
        harvest(pico.shared("llama"), FULL, [residual(0)], tmp_path, texts_per_shard=2)
    else:
        Harvest(pico.shared("llama"), FULL, [residual(0)], tmp_path, texts_per_shard=2).write("shard-00001")
    before = contents(tmp_path)
    with pytest.raises(RunError, match=f"holds a harvest with another {name} .*; choose another directory"):
        harvest(model, options.pop("texts"), options.pop("sites"), tmp_path, **options)
    assert contents(tmp_path) == before


def test_large_masks_are_told_apart(tmp_path: Path) -> None:
    table = torch.ones(6, 500, dtype=torch.bool)
    other = table.clone()
    other[3, 5] = False
    harvest(pico.shared("llama"), FULL, [residual(0)], tmp_path, positions=Mask(table))
    with pytest.raises(RunError, match="another positions"):
        harvest(pico.shared("llama"), FULL, [residual(0)], tmp_path, positions=Mask(other))


def poison(text: str, position: int, value: float) -> Edit:
    """Makes one state not finite: of the given text, wherever it stands, at one position."""
    length = len(text.encode())

    def function(state: Tensor, at: Tensor, row: Tensor) -> Tensor:
        return torch.where(((at == position) & (row == FULL.index(text))[:, None])[..., None], value, state)

    assert position < length
    return Edit(residual(1), function)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("per_shard", [1, 2, 100])
def test_a_state_that_is_not_finite_is_named(value: float, per_shard: int, tmp_path: Path) -> None:
    """Site, text counted over the whole corpus, position; the shard is not written, those before it are whole."""
    model, text = pico.shared("llama"), "Two and two"
    with (
        edited(model, [poison(text, 4, value)]),
        pytest.raises(NonFiniteError, match=r"^NaN or infinity at residual:1, text 3, position 4$"),
    ):
        harvest(model, FULL, [residual(0), residual(1)], tmp_path, texts_per_shard=per_shard)
    assert len(list(tmp_path.glob("shard-*"))) == 3 // per_shard
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "index.json").exists()


def test_states_too_large_for_the_stored_dtype(tmp_path: Path) -> None:
    model = pico.shared("llama")
    with edited(model, [Edit(residual(0), lambda state, _p, _r: state * 1e6)]):
        with pytest.raises(
            NonFiniteError, match=r"states at residual:0 are too large for torch.float16; store them as"
        ):
            harvest(model, FULL, [residual(0)], tmp_path / "half", dtype="float16")
        assert nothing_written(tmp_path / "half")
        harvest(model, FULL, [residual(0)], tmp_path / "brain", dtype="bfloat16")


@pytest.fixture
def made(tmp_path: Path) -> Activations:
    return harvest(pico.shared("llama"), FULL, [residual(0)], tmp_path, texts_per_shard=2)


def test_a_truncated_shard_is_one_sentence(made: Activations) -> None:
    path = made.directory / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    for read in (
        lambda: made[1],
        lambda: harvest(pico.shared("llama"), FULL, [residual(0)], made.directory, texts_per_shard=2),
    ):
        with pytest.raises(DataError, match=r"shard-00001.safetensors is corrupt or truncated") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert len(made[0].text) > 0


def test_a_missing_shard(made: Activations) -> None:
    (made.directory / "shard-00002.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"shard-00002.safetensors does not exist"):
        made[2]
    with pytest.raises(RunError, match="still lacks shard-00002; write it first"):
        Harvest(pico.shared("llama"), FULL, [residual(0)], made.directory, texts_per_shard=2).finish()


def test_a_shard_of_another_length(made: Activations) -> None:
    other = files.load_tensors(made.directory / "shard-00000.safetensors")
    files.save_tensors(made.directory / "shard-00001.safetensors", other)
    with pytest.raises(DataError, match=r"shard-00001.safetensors holds \d+ tokens, the index says \d+"):
        made[1]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 99}'])
def test_an_index_that_is_none(text: str, made: Activations) -> None:
    (made.directory / "index.json").write_text(text)
    with pytest.raises(DataError, match=r"index.json, line 1|has harvest format"):
        Activations(made.directory)


def test_an_unfinished_harvest_cannot_be_opened(tmp_path: Path) -> None:
    Harvest(pico.shared("llama"), FULL, [residual(0)], tmp_path, texts_per_shard=2).write("shard-00001")
    with pytest.raises(MissingFileError, match=r"index.json does not exist"):
        Activations(tmp_path)


def test_states_of_other_weights_are_refused(made: Activations) -> None:
    made.check_model(pico.shared("llama"))
    with pytest.raises(MismatchError, match=r"holds states of weights [0-9a-f]{12}, but .* has [0-9a-f]{12}"):
        made.check_model(pico.build("llama", seed=3))
    model = pico.build("llama")
    made.check_model(model)
    with (
        WeightPatch.make(model, [rows(model.anatomy.mlp_weights(0).read, [1], torch.ones(1, 32))]).applied(model),
        pytest.raises(MismatchError, match="holds states of weights"),
    ):
        made.check_model(model)


def test_the_index_holds_no_paths_and_no_times(made: Activations) -> None:
    index = json.loads((made.directory / "index.json").read_text())
    assert str(made.directory) not in json.dumps(index)
    assert {entry["file"] for entry in index["shards"]} == {f"shard-{i:05d}.safetensors" for i in range(3)}
