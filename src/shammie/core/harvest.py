"""Stream the states of a corpus to sharded safetensors with a token map, and read them back.

A shard is a fixed slice of the texts, written whole or not at all: killed work goes on with the shards that are missing
and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core import files
from shammie.core.batch import encode, pad, plan_batches
from shammie.core.capture import Captured, capture
from shammie.core.errors import DataError, MismatchError, NonFiniteError, RunError, SiteError
from shammie.core.model import DTYPES, LanguageModel
from shammie.core.position import ALL, Positions, Span
from shammie.core.site import Site

INDEX = "index.json"
FORMAT = 1
_SAMPLE = 64  # texts tokenized for an estimate


def stream(
    model: LanguageModel, texts: Sequence[str], sites: Sequence[Site], *, positions: Positions = ALL,
    max_tokens: int = 512, batch_tokens: int = 4096, first: int = 0,
) -> Iterator[Captured]:  # fmt: skip
    """Packed states of many texts batch by batch, `row` being the text's index; texts are cut after `max_tokens`.

    `first` is the index of the first text, where they are a slice of a corpus for which `positions` was made. Batches
    hold texts of like length, longest first. Texts of which no token is chosen are passed over.
    """
    encoded = {first + index: encode(model, text)[:max_tokens] for index, text in enumerate(texts)}
    chosen = [row for row, ids in encoded.items() if bool(positions.mask(pad([ids], row=[row]).frame).any())]
    for members in plan_batches([len(encoded[row]) for row in chosen], tokens=batch_tokens):
        rows = [chosen[i] for i in members]
        batch = pad([encoded[row] for row in rows], row=rows, device=model.device)
        captured = capture(model, batch, sites, positions=positions)
        for site, state in captured.states.items():
            if not bool(state.isfinite().all()):
                at = int((~state.isfinite()).flatten(1).any(-1).nonzero()[0, 0])
                raise NonFiniteError(
                    f"NaN or infinity at {site}, text {int(captured.row[at])}, position {int(captured.position[at])}"
                )
        yield captured


class Harvest:
    """A corpus's states at some sites, to be written shard by shard into a directory.

    Args:
        positions: tokens to keep. `skip_first` drops that many from the front of each text besides (a BOS or attention
            sink would swamp the statistics of everything else).
        dtype: stored dtype; None keeps the model's.
        texts_per_shard: the slice of texts that makes one shard.
        max_tokens: texts are cut there; `write` says how many were.
    """

    def __init__(
        self, model: LanguageModel, texts: Sequence[str], sites: Sequence[Site], directory: str | Path, *,
        positions: Positions | None = None, dtype: str | None = None, texts_per_shard: int = 256, max_tokens: int = 512,
        skip_first: int = 0,
    ) -> None:  # fmt: skip
        if not texts:
            raise DataError("no texts to read")
        if positions is not None and skip_first:
            raise SiteError("give either positions or skip_first")
        if dtype is not None and dtype not in DTYPES:
            raise DataError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        if min(texts_per_shard, max_tokens) < 1 or skip_first < 0:
            raise DataError("texts_per_shard and max_tokens must be at least 1, and skip_first not negative")
        for site in sites:
            model.anatomy.hook_point(site)
        self.model, self.texts, self.sites, self.directory = model, texts, list(sites), Path(directory)
        self.positions = positions or (Span(skip_first) if skip_first else ALL)
        self.dtype = DTYPES[dtype] if dtype else model.dtype
        self.texts_per_shard, self.max_tokens = texts_per_shard, max_tokens
        count = -(-len(texts) // texts_per_shard)
        self.shards = [f"shard-{index:05d}" for index in range(count)]

    def plan(self) -> dict[str, Any]:
        """What determines every byte: two harvests with equal plans write equal files."""
        return {
            "format": FORMAT,
            "model": self.model.name,
            "model_hash": self.model.hash,
            "edits": self.model.edits_in_force,
            "sites": [str(site) for site in self.sites],
            "positions": repr(self.positions),
            "dtype": str(self.dtype).removeprefix("torch."),
            "texts": len(self.texts),
            "texts_sha256": files.sha256_bytes("\x00".join(self.texts).encode()),
            "texts_per_shard": self.texts_per_shard,
            "max_tokens": self.max_tokens,
        }

    def estimate(self) -> dict[str, Any]:
        """Expected tokens and bytes on disk, from the lengths of the first texts; runs no model."""
        sample = [min(len(encode(self.model, text)), self.max_tokens) for text in self.texts[:_SAMPLE]]
        tokens = round(sum(sample) / len(sample) * len(self.texts))
        width = sum(self.model.anatomy.site_width(site) for site in self.sites)
        size = tokens * (width * self.dtype.itemsize + 3 * 4)
        return {"texts": len(self.texts), "shards": len(self.shards), "tokens": tokens, "bytes": size}

    def write(self, key: str) -> dict[str, Any]:
        """Write one shard atomically and say what is in it."""
        self._claim()
        start = self.shards.index(key) * self.texts_per_shard
        texts = self.texts[start : start + self.texts_per_shard]
        options: Any = {"positions": self.positions, "max_tokens": self.max_tokens, "first": start}
        blocks = list(stream(self.model, texts, self.sites, **options))
        ids = [encode(self.model, text) for text in texts]
        cut = sum(len(tokens) > self.max_tokens for tokens in ids)
        path = self.directory / f"{key}.safetensors"
        tensors = self._shard(blocks, ids, start)
        files.save_tensors(path, tensors)
        return {"shard": key, "tokens": len(tensors["text"]), "texts_cut": cut, "sha256": files.sha256_file(path)}

    def _shard(self, blocks: list[Captured], ids: list[list[int]], start: int) -> dict[str, Tensor]:
        if not blocks:
            empty = torch.zeros(0, dtype=torch.int32)
            states = {str(s): torch.zeros(0, self.model.anatomy.site_width(s), dtype=self.dtype) for s in self.sites}
            return {"text": empty, "position": empty, "token": empty, **states}
        row = torch.cat([block.row for block in blocks]).cpu()
        position = torch.cat([block.position for block in blocks]).cpu()
        # Batches ran longest text first; the file keeps the order of the corpus.
        order = (row * (self.max_tokens + 1) + position).argsort()
        row, position = row[order], position[order]
        tokens = torch.tensor([ids[r - start][p] for r, p in zip(row.tolist(), position.tolist(), strict=True)])
        states = {str(s): torch.cat([b[s] for b in blocks]).cpu()[order].flatten(1).to(self.dtype) for s in self.sites}
        for name, state in states.items():
            if not bool(state.isfinite().all()):
                raise NonFiniteError(
                    f"states at {name} are too large for {self.dtype}; store them as float32 or bfloat16"
                )
        narrow = {"text": row, "position": position, "token": tokens}
        return {**{name: value.to(torch.int32) for name, value in narrow.items()}, **states}

    def _claim(self) -> None:
        """Refuse a directory that holds shards of another plan."""
        path = self.directory / "plan.json"
        if not path.exists():
            files.write_json(path, self.plan())
        elif (former := files.read_json(path)) != self.plan():
            differs = next(name for name in self.plan() if former.get(name) != self.plan()[name])
            raise RunError(
                f"{self.directory} holds a harvest with another {differs} ({former.get(differs)}); choose another directory"
            )

    def finish(self) -> Activations:
        """Write the index once every shard is there."""
        self._claim()
        entries = []
        for key in self.shards:
            path = self.directory / f"{key}.safetensors"
            if not path.exists():
                raise RunError(f"{self.directory} still lacks {key}; write it first")
            entries.append({"file": path.name, "tokens": len(files.load_tensors(path)["text"])})
        files.write_json(self.directory / INDEX, {**self.plan(), "shards": entries})
        for torn in [
            *self.directory.glob(".*.tmp"),
            *self.directory.glob(".tmp*"),
        ]:  # by killed processes; safetensors' own
            torn.unlink(missing_ok=True)
        return Activations(self.directory)


def harvest(
    model: LanguageModel, texts: Sequence[str], sites: Sequence[Site], directory: str | Path, **options: Any
) -> Activations:
    """Write what is missing of a harvest (see Harvest for the options) and open it."""
    work = Harvest(model, texts, sites, directory, **options)
    for key in work.shards:
        if not (work.directory / f"{key}.safetensors").exists():
            work.write(key)
    return work.finish()


@dataclass(frozen=True)
class Shard:
    """States [N, D] of each site, and for each of the N tokens its text, position and token id."""

    states: dict[Site, Float[Tensor, "N D"]]
    text: Int[Tensor, " N"]
    position: Int[Tensor, " N"]
    token: Int[Tensor, " N"]


class Activations:
    """A finished harvest on disk; reads one shard at a time."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.index: dict[str, Any] = files.read_json(self.directory / INDEX)
        found = self.index.get("format") if isinstance(self.index, dict) else None
        if found != FORMAT:
            raise DataError(f"{self.directory} has harvest format {found}; this version reads {FORMAT}")

    @cached_property
    def sites(self) -> list[Site]:
        """What was captured."""
        return [Site.parse(text) for text in self.index["sites"]]

    @property
    def tokens(self) -> int:
        """N over all shards."""
        return sum(entry["tokens"] for entry in self.index["shards"])

    def __len__(self) -> int:
        return len(self.index["shards"])

    def __getitem__(self, number: int) -> Shard:
        entry = self.index["shards"][number]
        tensors = files.load_tensors(self.directory / entry["file"])
        if len(tensors["text"]) != entry["tokens"]:
            raise DataError(f"{entry['file']} holds {len(tensors['text'])} tokens, the index says {entry['tokens']}")
        states = {site: tensors[str(site)] for site in self.sites}
        return Shard(states, tensors["text"].long(), tensors["position"].long(), tensors["token"].long())

    def __iter__(self) -> Iterator[Shard]:
        return (self[number] for number in range(len(self)))

    def check_model(self, model: LanguageModel) -> None:
        """Raise MismatchError unless these states are of the model's weights."""
        if self.index["model_hash"] != model.hash:
            raise MismatchError(
                f"{self.directory} holds states of weights {self.index['model_hash'][:12]}, but {model.name} has {model.hash[:12]}"
            )
