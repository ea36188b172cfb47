"""Typed dataclasses to plain JSON values and back, strictly; differences between plain values."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from shammie.core.errors import ShammieError

C = TypeVar("C")
Hook = Callable[[Any, Any], Any]
_SEQUENCES: tuple[Any, ...] = (tuple, list)
ABSENT = type("Absent", (), {"__repr__": lambda _: "nothing"})()


def to_plain(value: Any) -> Any:
    """A dataclass, or any part of one, as values that JSON can hold."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    return value.as_posix() if isinstance(value, Path) else value


def from_plain(cls: type[C], mapping: Mapping[str, Any]) -> C:
    """Build the dataclass that `to_plain` flattened; nothing is coerced but int to float and str to Path.

    Raises:
        ShammieError: an unknown or missing key or a wrong type, naming key, class and the known keys.
    """
    try:
        built: C = _converter().structure(mapping, cls)
        return built
    except Exception as error:
        raise _explain(error, cls, mapping) from error


@functools.cache
def _converter() -> Any:
    import cattrs
    from cattrs.strategies import configure_union_passthrough

    converter: Any = cattrs.Converter(forbid_extra_keys=True)
    for kind in (str, int, bool, float):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    converter.register_structure_hook_factory(lambda kind: get_origin(kind) in _SEQUENCES, _sequence_hook)
    configure_union_passthrough(str | int | bool | float | None, converter)
    converter.register_structure_hook_func(_is_tensor, lambda value, _: value)
    return converter


def _is_tensor(kind: Any) -> bool:
    """Tensors of an artifact pass as they are; jaxtyping's classes stand for torch's."""
    return getattr(kind, "__module__", "").split(".")[0] in ("torch", "jaxtyping")


def _exactly(value: Any, kind: Any) -> Any:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError
    return kind(value)


def _sequence_hook(kind: Any, converter: Any) -> Hook:
    """A list for a list or tuple; never a string, which would fall into letters."""
    arms, origin = get_args(kind), get_origin(kind)
    repeated = origin is list or Ellipsis in arms

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError
        inner = arms[:1] * len(value) if repeated else arms
        return origin(converter.structure(part, arm) for part, arm in zip(value, inner, strict=True))

    return hook


def _explain(error: BaseException, cls: type, value: Any) -> ShammieError:
    """Follow cattrs' nested errors to the first cause and say it in one sentence."""
    from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError

    place, owner, wanted = cls.__name__, cls, cls
    while isinstance(error, BaseValidationError):
        unknown = [inner for inner in error.exceptions if isinstance(inner, ForbiddenExtraKeysError)]
        error = (unknown or error.exceptions)[0]
        for note in getattr(error, "__notes__", ()):
            if (name := getattr(note, "name", None)) is not None:
                owner = wanted if dataclasses.is_dataclass(wanted) else owner
                value = value.get(name, ABSENT) if isinstance(value, Mapping) else value
                place, wanted = f"{place}.{name}", note.type
    if isinstance(error, ShammieError):
        return error
    owner = error.cl if isinstance(error, ForbiddenExtraKeysError) else owner
    known = [field.name for field in dataclasses.fields(owner) if field.init]
    keys = f"the keys of {owner.__name__} are {', '.join(known)}"
    if isinstance(error, ForbiddenExtraKeysError):
        name = min(map(str, error.extra_fields))
        close = difflib.get_close_matches(name, known, 1)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        return ShammieError(f"{owner.__name__} has no key {name!r}{guess}; {keys}")
    if value is ABSENT:
        return ShammieError(f"{place} is missing; {keys}")
    kind = str(wanted).replace("typing.", "") if get_args(wanted) else wanted.__name__
    return ShammieError(f"{place} must be {kind}, but is {_short(value)} ({type(value).__name__}); {keys}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def differences(left: Any, right: Any, tolerance: float = 0.0, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Field path and both values wherever two plain values differ; numbers by relative or absolute tolerance."""
    if isinstance(left, dict) and isinstance(right, dict):
        parts = [(f".{key}", left.get(key, ABSENT), right.get(key, ABSENT)) for key in left | right]
    elif isinstance(left, list) and isinstance(right, list):
        parts = [(f"[{i}]", *pair) for i, pair in enumerate(zip_longest(left, right, fillvalue=ABSENT))]
    else:
        numbers = {type(left), type(right)} <= {int, float}
        close = numbers and math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
        if not close and (numbers or type(left) is not type(right) or left != right):
            yield place.lstrip("."), left, right
        return
    for name, before, after in parts:
        yield from differences(before, after, tolerance, place + name)
