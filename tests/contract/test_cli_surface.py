"""The command line is frozen: a command or flag that comes, goes or changes its default shows in cli_surface.txt.

`python tests/contract/test_cli_surface.py` writes the file anew after a wanted change.
"""

import dataclasses
from pathlib import Path
from typing import get_args, get_type_hints

from shammie.cli.commands import COMMANDS, POWER, config_class

FILE = Path(__file__).with_name("cli_surface.txt")


def flags(cls, prefix=""):
    """Each setting of a config as the command line has it, with its default."""
    from tyro.conf import OmitArgPrefixes, Positional

    for item in dataclasses.fields(cls):
        hint = get_type_hints(cls, include_extras=True)[item.name]
        kind, *marks = get_args(hint) if hasattr(hint, "__metadata__") else [hint]
        if dataclasses.is_dataclass(kind):
            yield from flags(kind, prefix if OmitArgPrefixes in marks else f"{prefix}{item.name}.")
            continue
        name = f"{prefix}{item.name}".replace("_", "-")
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        default = "" if required else f" = {str(item.default) if isinstance(item.default, Path) else item.default!r}"
        shown = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), name.upper())
        yield (shown if Positional in marks else f"--{name}") + default


def surface():
    lines = []
    for name in sorted(COMMANDS):
        lines += [f"shammie {name}", *(f"    {flag}" for flag in flags(config_class(name)))]
    return "\n".join(lines) + "\n"


def test_the_command_line_is_what_was_agreed():
    assert surface() == FILE.read_text(), f"after a wanted change: python {Path(__file__).name}"


def test_the_flags_are_those_that_help_shows(capsys):
    from shammie.cli.main import main

    for name in COMMANDS:
        assert main([*name.split(), "--help"]) == 0
        out = capsys.readouterr().out
        for flag in flags(config_class(name)):
            word = flag.split(" = ")[0]
            word = word.replace("--", "--no-") if flag.endswith("= True") else word
            assert f" {word}" in out, f"{name}: {word}"


def test_power_names_rooms_that_exist():
    from shammie.cli.commands import planted

    for room in POWER:
        assert planted(room).null_draws >= 200


if __name__ == "__main__":
    FILE.write_text(surface())
