"""`shammie mfa harvest` and `shammie mfa fit`: shards and passes as resumable items, and the mixture as artifact."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shammie.core.artifact import load_artifact, save_artifact
from shammie.core.data import TextRecord, load_records
from shammie.core.errors import DataError, MissingFileError, ShammieError
from shammie.core.harvest import INDEX, Activations, Harvest
from shammie.core.model import load
from shammie.core.site import Site, parse_sites
from shammie.core.task import Task
from shammie.mfa.em import BLOCK_BYTES, Pass, converged, fit_em
from shammie.mfa.equations import Parameters
from shammie.mfa.fit import best_of
from shammie.mfa.mixture import Mixture, make_mixture
from shammie.mfa.packing import pack
from shammie.mfa.paper import fit_paper
from shammie.mfa.recipes import recipe
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import ModelSource, ShardSource

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.mfa.config import MfaFit, MfaHarvest

STATES, MIXTURE = "states", "mixture"
_SCALES = ((1000, 1_000_000), (8000, 10_000_000), (8000, 100_000_000), (32_000, 100_000_000))


def prepare_harvest(config: MfaHarvest) -> Task:
    """Load the model, pack the texts and check the sites."""
    data = load_records(config.texts, TextRecord, limit=config.limit)
    model = load(config.model, device=config.device, dtype=config.dtype)
    texts = [record.text for record in data.records]
    windows = pack(model, texts, config.window) if config.pack else texts
    harvest = Harvest(
        model, windows, parse_sites(config.site, len(model.anatomy.layers)), config.output_dir / "artifacts" / STATES,
        dtype=config.store_dtype, texts_per_shard=config.texts_per_shard, max_tokens=config.window, skip_first=config.skip_first,
    )  # fmt: skip

    def execute(run: Run) -> int:
        for key in run.items(harvest.shards, "mfa harvest"):
            run.record(key, {"kind": "shard", **harvest.write(key)})
        if not run.finished:
            harvest.finish()
        return 0

    def estimate() -> Mapping[str, Any]:
        from shammie.core.harvest import stream

        expected, few = harvest.estimate(), windows[:2]
        list(stream(model, few, harvest.sites, max_tokens=config.window))
        start = time.perf_counter()
        tokens = sum(len(read.row) for read in stream(model, few, harvest.sites, max_tokens=config.window))
        rate = tokens / (time.perf_counter() - start)
        each = expected["bytes"] / expected["tokens"]
        return {
            "windows": len(windows),
            "tokens": expected["tokens"],
            "disk": _size(expected["bytes"]),
            "time": _hours(expected["tokens"] / rate),
            "100 million tokens": f"{_size(1e8 * each)} of disk, {_hours(1e8 / rate)}",
            "memory": f"the model's weights and {_size(expected['bytes'] / len(harvest.shards))} a shard",
        }

    return Task({"model": model.hash, "data": data.sha256}, estimate, execute)


def open_states(directory: Path) -> Activations:
    """A harvest, by its directory or that of the run that made it. Errors: MissingFileError where there is none."""
    for place in (directory, directory / "artifacts" / STATES):
        if (place / INDEX).is_file():
            return Activations(place)
    raise MissingFileError(f"{directory} holds no harvest; name the --output-dir of a finished shammie mfa harvest")


def load_mixture(directory: Path) -> Mixture:
    """The mixture of a fit, by its directory or that of the run that made it."""
    for place in (directory / "artifacts" / MIXTURE, directory):
        if (place / "config.json").is_file():
            return Mixture.from_pretrained(place)
    raise MissingFileError(f"{directory} holds no mixture; name the --output-dir of a finished shammie mfa fit")


def prepare_fit(config: MfaFit) -> Task:
    """Open what is to be fitted, states on disk or a model with texts."""
    settings = recipe(config.recipe) if config.recipe is not None else config.settings
    source, site, provenance, inputs = _source(config, settings)
    if settings.rank >= source.width:
        raise ShammieError(
            f"rank {settings.rank} leaves no noise in {source.width} dimensions; choose a smaller --rank"
        )
    work = _Work(source, site, settings, provenance)
    return Task(inputs, work.estimate, work.execute)


def _source(
    config: MfaFit, settings: MfaSettings
) -> tuple[ShardSource | ModelSource, Site, dict[str, Any], dict[str, Any]]:
    if config.texts is None:
        states = open_states(Path(config.source))
        site = Site.parse(config.site) if config.site else states.sites[0]
        if config.site is None and len(states.sites) > 1:
            held = ", ".join(map(str, states.sites))
            raise ShammieError(f"{config.source} holds states of several sites; choose one with --site ({held})")
        known = {
            name: states.index[name] for name in ("model", "model_hash", "texts_sha256", "positions", "max_tokens")
        }
        return (
            ShardSource(states, site, settings.held_out, settings.seed),
            site,
            known,
            {"states": known, "site": str(site)},
        )
    if config.site is None:
        raise ShammieError("fitting straight from a model needs --site, such as residual:15")
    data = load_records(config.texts, TextRecord, limit=config.limit)
    model = load(config.source, device=config.device, dtype=config.dtype)
    windows = pack(model, [record.text for record in data.records], config.window)
    site = Site.parse(config.site)
    model.anatomy.hook_point(site)
    known = {"model": model.name, "model_hash": model.hash, "data": data.sha256, "max_tokens": config.window}
    source = ModelSource(model, windows, site, config.skip_first, config.window, settings.held_out, settings.seed)
    return source, site, known, {"model": model.hash, "data": data.sha256, "site": str(site)}


@dataclass(eq=False)
class _Work:
    source: ShardSource | ModelSource
    site: Site
    settings: MfaSettings
    provenance: dict[str, Any]

    def execute(self, run: Run) -> int:
        """Carry out the pending passes, keeping the last and the best, and save the best as the mixture."""
        if self.settings.trainer == "paper":
            return self._at_once(run)
        keys = [f"pass-{number}" for number in range(self.settings.passes + 1)]
        for key in run.items([*keys, MIXTURE], "mfa fit"):
            done = [record for record in run.results() if record["kind"] == "pass"]
            if key == MIXTURE:
                best = _best(done)
                self._save(run, self._restore(run, best), best)
                run.record(key, self._record(best))
                continue
            if _finished(done, self.settings.tolerance):
                run.record(key, [])
                continue
            begin = (
                Pass(done[-1]["pass"], self._restore(run, done[-1]), done[-1]["train"], done[-1]["held_out"])
                if done
                else None
            )
            new = next(fit_em(self.source, self.settings, begin=begin))
            save_artifact(_state(run, new.number), "mfa_pass", {}, new.mixture._asdict(), {}, overwrite=True)
            record = _pass_record(new)
            run.record(key, record)
            _keep(run, {new.number, _best([*done, record])["pass"]})
        shutil.rmtree(run.artifacts / "passes", ignore_errors=True)
        return 0

    def _at_once(self, run: Run) -> int:
        for key in run.items([MIXTURE], "mfa fit"):
            found = list(fit_paper(self.source, self.settings))
            records = [_pass_record(one) for one in found]
            best = best_of(found)
            self._save(run, best.mixture, _pass_record(best))
            run.record(key, [*records, self._record(_pass_record(best))])
        return 0

    def _restore(self, run: Run, record: Mapping[str, Any]) -> Parameters:
        return Parameters(**load_artifact(_state(run, record["pass"]), "mfa_pass").tensors)

    def _save(self, run: Run, parameters: Parameters, best: Mapping[str, Any]) -> None:
        provenance = {**self.provenance, "held_out_nll": best["held_out"], "pass": best["pass"]}
        mixture = make_mixture(parameters, self.settings, self.site, provenance)
        mixture.save_pretrained(run.artifacts / MIXTURE, overwrite=True)

    def _record(self, best: Mapping[str, Any]) -> dict[str, Any]:
        named = {"site": str(self.site), "components": self.settings.components, "rank": self.settings.rank}
        return {"kind": "mixture", **named, "pass": best["pass"], "held_out": best["held_out"]}

    def estimate(self) -> Mapping[str, Any]:
        """Operations, memory and disk of this fit and of larger ones; time by the rate of a matrix product here."""
        width, rank, rate = self.source.width, self.settings.rank, _rate()
        tokens = self.source.activations.tokens if isinstance(self.source, ShardSource) else 0
        own = _cost(self.settings, self.settings.components, tokens, width, rate)
        scales = {
            f"K={count:,}, {many:,} tokens": _cost(self.settings, count, many, width, rate) for count, many in _SCALES
        }
        return {
            "tokens": tokens or "as the texts hold",
            "components": self.settings.components,
            "rank": rank,
            "this fit": own,
            **scales,
        }


def _cost(settings: MfaSettings, count: int, tokens: int, width: int, rate: float) -> str:
    """The screen compares all components in few dimensions, candidates in full; the paper's trainer all in full, thrice."""
    size = settings.rank + 1
    if settings.trainer == "paper":
        each = 6 * width * count * size
    else:
        dims = settings.screen or width
        each = 2 * dims * (width + count * size) + 3 * 2 * settings.candidates * width * size
    start = 2 * (settings.screen or width) * count * settings.iterations * min(tokens, settings.start_tokens)
    model = 4 * count * width * size
    copies = 4 if settings.trainer == "paper" else 3
    memory = copies * model + 6 * BLOCK_BYTES + 8 * width * min(tokens, settings.start_tokens)
    seconds = (settings.passes * each * tokens + start) / rate
    return f"{_hours(seconds)} here, {_size(memory)} of memory, {_size(model)} on disk, {_size(2.0 * width * tokens)} of states"


def _rate() -> float:
    """Operations a second of a float32 matrix product, the third of three."""
    a, b = torch.ones(2048, 512), torch.ones(512, 2048)
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        taken = time.perf_counter() - start
    return 2 * 2048 * 512 * 2048 / taken


def _pass_record(one: Pass) -> dict[str, Any]:
    return {"kind": "pass", "pass": one.number, "train": one.train, "held_out": one.held_out, "reseeded": one.reseeded}


def _best(done: list[dict[str, Any]]) -> dict[str, Any]:
    if not done:
        raise DataError("no pass is finished")
    return done[-1] if done[-1]["held_out"] is None else min(done, key=lambda record: record["held_out"])


def _finished(done: list[dict[str, Any]], tolerance: float) -> bool:
    if len(done) < 2:
        return False
    former, last = (Pass(r["pass"], None, r["train"], r["held_out"]) for r in done[-2:])  # type: ignore[arg-type]
    return converged(former, last, tolerance)


def _state(run: Run, number: int) -> Path:
    return run.artifacts / "passes" / f"pass-{number}"


def _keep(run: Run, numbers: set[int]) -> None:
    for path in (run.artifacts / "passes").glob("pass-*"):
        if int(path.name.removeprefix("pass-")) not in numbers:
            shutil.rmtree(path)


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GB" if count >= 2**29 else f"{count / 2**20:,.0f} MB"


def _hours(seconds: float) -> str:
    return f"about {seconds / 3600:,.1f} h" if seconds >= 3600 else f"about {max(1, round(seconds / 60))} min"
