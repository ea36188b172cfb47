"""shammie fetch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from shammie.cli.console import facts, say, size


@dataclass(frozen=True)
class Fetch:
    """Bring a small bundled model into the cache, so that its name works wherever a MODEL is asked for."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """smollm2-135m or gemma-3-270m."""

    def run(self) -> int:
        """Show the terms, fetch, and say where the model lies."""
        from shammie.core.bundled import BUNDLED, fetch

        if (model := BUNDLED.get(self.name)) is not None:
            say(model.description)
            say(f"Licence: {model.licence}. {model.terms}")
        directory = fetch(self.name)
        stored = sum(path.stat().st_size for path in directory.iterdir())
        say(facts({"directory": directory, "on_disk": size(stored), "try": f"shammie doctor {self.name}"}))
        return 0
