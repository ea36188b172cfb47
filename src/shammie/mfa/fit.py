"""Fit a mixture from Python: any source, either trainer, the best pass kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from shammie.core.site import Site
from shammie.mfa.em import Pass, fit_em
from shammie.mfa.mixture import Mixture, make_mixture
from shammie.mfa.paper import fit_paper
from shammie.mfa.processes import Processes
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import Source


def passes(source: Source, settings: MfaSettings, processes: Processes | None = None) -> Iterator[Pass]:
    """The passes of the trainer that the settings name."""
    return fit_em(source, settings, processes) if settings.trainer == "em" else fit_paper(source, settings, processes)


def best_of(found: Iterable[Pass]) -> Pass:
    """The pass with the lowest held-out negative log-likelihood; the last where nothing is held out."""
    best: Pass | None = None
    for one in found:
        if best is None or one.held_out is None or best.held_out is None or one.held_out < best.held_out:
            best = one
    assert best is not None, "a trainer yields at least its start"
    return best


def fit(
    source: Source, site: Site, settings: MfaSettings | None = None, provenance: dict[str, Any] | None = None
) -> Mixture:
    """Fit a mixture to a source of activations of a site."""
    settings = settings or MfaSettings()
    best = best_of(passes(source, settings))
    return make_mixture(best.mixture, settings, site, provenance or {})
