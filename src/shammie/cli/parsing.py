"""From a command line and an optional YAML file to a config dataclass; every mistake is one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from shammie.core import files
from shammie.core.errors import DataError, ShammieError
from shammie.core.plain import from_plain

C = TypeVar("C")
_FLAG = "--config"


class UsageError(ShammieError):
    """The command line does not fit the command."""


def parse(cls: type[C], words: Sequence[str], name: str) -> C:
    """Build a config from flags, with values of `--config FILE` as the defaults.

    Errors: UsageError for the line, DataError or ShammieError for the file; SystemExit(0) after --help.
    """
    import tyro

    path, rest = _config_flag(list(words))
    default = tyro.MISSING_NONPROP if path is None else defaults(cls, read_yaml(path))
    said = io.StringIO()  # no terminal: tyro then frames its message in plain letters
    helping = {"-h", "--help"} & set(rest)
    try:
        with (
            contextlib.nullcontext() if helping else contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            return tyro.cli(
                cls,
                prog=f"shammie {name}",
                args=rest,
                default=default,
                description=_description(cls),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as error:
        if not error.code:
            raise
        if (own := _own(error)) is not None:
            raise own from None
        raise UsageError(f"{_sentence(said.getvalue())} (see shammie {name} --help)") from None


def _own(error: BaseException | None) -> ShammieError | None:
    """The complaint of a config's own check, which tyro takes for a parse error."""
    while error is not None and not isinstance(error, ShammieError):
        error = error.__context__
    return error


def _description(cls: type) -> str:
    text = " ".join((cls.__doc__ or "").split())
    return f"{text}\n\n{_FLAG} FILE takes settings from a YAML file, under their names; flags given here go first."


def _config_flag(words: list[str]) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` out of the line, up to a bare `--`."""
    end = words.index("--") if "--" in words else len(words)
    found: Path | None = None
    rest: list[str] = []
    line = iter(words[:end])
    for word in line:
        if word != _FLAG and not word.startswith(f"{_FLAG}="):
            rest.append(word)
            continue
        if found is not None:
            raise UsageError(f"{_FLAG} is given twice; put everything into one file")
        value = word[len(_FLAG) + 1 :] if "=" in word else next(line, "")
        if not value:
            raise UsageError(f"{_FLAG} needs a file, such as {_FLAG} settings.yaml")
        found = Path(value)
    return found, rest + words[end:]


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML or JSON file; numbers such as 1e-3 are numbers."""
    values = files.read_json(path) if path.suffix == ".json" else _read_yaml(path)
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold settings as `name: value`, but holds {type(values).__name__}")
    return values


def _read_yaml(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(files.read_bytes(path), Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise DataError(f"{path}{place}: invalid YAML ({problem}); mend the file") from None


def defaults(cls: type[C], values: dict[str, Any]) -> C:
    """An instance with the values of a file; a required field that it leaves out waits for the command line."""
    import tyro

    hints = get_type_hints(cls, include_extras=True)
    shape: list[tuple[str, Any, Any]] = []
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        default = dataclasses.field(default=tyro.MISSING) if required else item
        shape.append((item.name, hints[item.name], _copy(default)))
    # The same fields without the class's own checks, which would meet the missing ones.
    partial: Any = from_plain(dataclasses.make_dataclass(cls.__name__, shape), values)
    instance = object.__new__(cls)
    for name, _, _ in shape:
        object.__setattr__(instance, name, getattr(partial, name))
    return instance


def _copy(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=item.default_factory)
    return dataclasses.field(default=item.default)


def _sentence(box: str) -> str:
    """Make tyro's framed message (a title, then parts between rules) one sentence, with the flags it proposes."""
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()]
    parts = [*re.split(r"\n\s*-{4,}(?:\n|$)", "\n".join(lines)), ""]
    said = parts[1].split("\n\n")[0]
    if said.lstrip().startswith("Missing from"):
        names = re.findall(r"^ {6}(\S.*)$", said, re.MULTILINE)
        return f"missing {', '.join(names)}"
    proposals = [part for part in parts if re.match(r"\s*(Perhaps you meant|Arguments similar)", part)]
    close = dict.fromkeys(re.findall(r"^ {6}(--\S+)", "\n".join(proposals), re.MULTILINE))
    told = " ".join(said.split()).rstrip(".") or "the line does not fit"
    return told[:1].lower() + told[1:] + (f"; perhaps you meant {' or '.join(close)}" if close else "")
