"""`shammie mfa describe`: what regions are about, with names from a judge when one is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shammie.core.errors import MismatchError, ShammieError
from shammie.core.harvest import Activations
from shammie.core.judge import Completer
from shammie.core.model import load
from shammie.core.run import read_run
from shammie.core.task import Task
from shammie.mfa.fitting import load_mixture, open_states
from shammie.mfa.mixture import Mixture
from shammie.mfa.regions import gather, records

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.mfa.config import MfaDescribe

_REQUEST = """Below are passages in which the token between [[ and ]] falls into one region of a language model's states.
In at most ten words, say what these tokens have in common. Write the phrase alone.

$contexts"""
_AT_ONCE = 64  # regions of one pass over the states


def parse_regions(text: str, count: int) -> list[int]:
    """Numbers such as 5, 0:20 (without 20), several separated by commas, or all. Errors: ShammieError."""
    if text.strip() == "all":
        return list(range(count))
    chosen: set[int] = set()
    for piece in text.split(","):
        low, colon, high = piece.strip().partition(":")
        try:
            first = int(low or 0)
            stop = (int(high) if high else count) if colon else first + 1
        except ValueError:
            raise ShammieError(f"{piece.strip()!r} names no region; write 5, 0:20, 3,7:9 or all") from None
        stop = min(stop, count) if colon else stop
        if not 0 <= first < stop <= count:
            raise ShammieError(f"region {piece.strip()} does not exist; this mixture has regions 0 to {count - 1}")
        chosen.update(range(first, stop))
    return sorted(chosen)


def check_states(mixture: Mixture, states: Activations) -> None:
    """Refuse states of another model or site than the mixture's."""
    if mixture.at() not in states.sites:
        raise MismatchError(
            f"{states.directory} holds states of {', '.join(map(str, states.sites))}, not of {mixture.site}"
        )
    if states.index["model_hash"] != mixture.provenance.get("model_hash"):
        raise MismatchError(
            f"{states.directory} holds states of other weights than the mixture was fitted on; harvest again"
        )


def prepare_describe(config: MfaDescribe) -> Task:
    """Read the mixture, the states and the model's tokens."""
    mixture, states = load_mixture(config.fit), open_states(config.states)
    check_states(mixture, states)
    regions = parse_regions(config.regions, len(mixture.weights))
    model = load(config.model or str(states.index["model"]))
    mixture.check_model(model)
    completer = None if config.judge is None else writer(config.judge)
    shares = {
        f"{part[0]}-{part[-1]}": part for part in (regions[i : i + _AT_ONCE] for i in range(0, len(regions), _AT_ONCE))
    }

    def execute(run: Run) -> int:
        for key in run.items(list(shares), "mfa describe"):
            found = gather(mixture, states, model, shares[key], config.contexts, config.directions)
            lines = records(mixture, found, model, config.directions)
            for line in lines:
                if completer is not None and line["kind"] == "region" and line["contexts"]:
                    line["name"] = name(line["contexts"], completer)
            run.record(key, lines)
        return 0

    inputs: dict[str, Any] = {"fit": mixture.provenance, "states": states.index["texts_sha256"]}
    inputs["judge"] = completer and completer.identity
    return Task(inputs, lambda: {"regions": len(regions), "tokens to read": states.tokens * len(shares)}, execute)


def name(contexts: list[str], completer: Completer) -> str:
    """A model's phrase for a region, from its contexts alone."""
    return completer.complete([_REQUEST.replace("$contexts", "\n".join(contexts))])[0].strip()


def writer(spec: str) -> Completer:
    """The model that names regions."""
    from shammie.core.backends import BackendCompleter, backend_for
    from shammie.core.decoding import GenerationSettings

    return BackendCompleter(backend_for(spec), GenerationSettings(max_new_tokens=24, temperature=0.0))


def model_name(fit: Any, given: str | None, mixture: Mixture) -> str:
    """The model that a fit was made of, by the name given or the recorded one. Errors: ShammieError."""
    recorded = mixture.provenance.get("model")
    if given is None and not recorded:
        source = read_run(fit).config.get("source")
        raise ShammieError(f"the mixture of {source} does not name its model; give it with --model")
    return given or str(recorded)
