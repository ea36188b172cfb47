"""The console script: finds the command, builds its config, runs it, and turns mistakes into one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from shammie import __version__
from shammie.cli.commands import COMMANDS, config_class, find, group
from shammie.cli.console import complain, say, set_up
from shammie.core.errors import ShammieError

_INTERRUPTED, _BROKEN_PIPE = 130, 141  # what shells give for SIGINT and SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 a check failed, 2 a mistake, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    set_up()
    prefix, config = "shammie", None
    try:
        if asked := _asked(words):
            say(asked)
            return 0
        name, rest = find(words)
        prefix = f"shammie {name}"
        config = _config(name, rest)
        return _run(name, config)
    except ShammieError as error:
        complain(f"{prefix}: {error}")
        return 2
    except SystemExit as end:  # after --help
        return int(end.code or 0)
    except KeyboardInterrupt:
        kept = getattr(config, "output_dir", None)
        hint = f"; repeat the command with --resume to go on in {kept}" if kept and hasattr(config, "resume") else ""
        complain(f"{prefix}: interrupted{hint}")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return _BROKEN_PIPE


def _asked(words: Sequence[str]) -> str:
    """The answer to `shammie`, `--help`, `--version` and `ROOM --help`; nothing that computes is imported for it."""
    if not words or words[0] in ("-h", "--help", "help"):
        return _help(list(COMMANDS))
    if words[0] in ("-V", "--version"):
        return f"shammie {__version__}"
    if words[0] not in COMMANDS and group(words[0]) and set(words[1:2]) <= {"-h", "--help"}:
        return _help(group(words[0]), words[0])
    return ""


def _help(names: Sequence[str], room: str = "") -> str:
    size = max(map(len, names))
    about = (
        f"What `shammie {room}` does:" if room else "See what a language model has stored and how it reasons with it."
    )
    title = f"usage: shammie {f'{room} ' if room else ''}COMMAND …\n\n{about}"
    lines = [f"  {name:<{size}}  {COMMANDS[name].help}" for name in names]
    return "\n".join([title, "", *lines, "", "Add --help to a command for its settings."])


def _config(name: str, words: Sequence[str]) -> Any:
    from shammie.cli.parsing import parse

    return parse(config_class(name), words, name)


def _run(name: str, config: Any) -> int:
    if not hasattr(config, "prepare"):
        return int(config.run())
    from shammie.cli.running import carry_out

    return carry_out(name, config)


if __name__ == "__main__":
    sys.exit(main())
