"""Takes a reply apart: the chain, and the answer of the last JSON object that has one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

KEY = "final_answer"
_KEY = re.compile(r"[\"'“”]?final_answer[\"'“”]?\s*:")
_FENCE = re.compile(r"```(?:json)?\s*$")
_LONGEST = 2000  # characters before and after the key in which its object is looked for
_THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class Reply:
    """A reply's parts. `answer` is None where none can be read, and `trouble` then says why."""

    chain: str
    answer: str | None
    trouble: str = ""


def parse_reply(text: str, reasoning: str | None = None) -> Reply:
    """The chain is what was reasoned apart from the answer where a model does that, else what stands before the object.

    The answer is that of the last object with the key `final_answer`; objects may be nested or broken off.
    """
    thought, rest = _thoughts(text) if reasoning is None else (reasoning, text)
    if thought is not None and rest is None:
        return Reply(thought.strip(), None, "the reasoning was not ended")
    body = rest or ""
    found = _last_object(body)
    if found is None:
        return Reply((body if thought is None else thought).strip(), None, "there is no final_answer")
    start, answer = found
    chain = _FENCE.sub("", body[:start]) if thought is None else thought
    return Reply(chain.strip(), answer, "" if answer is not None else "the final_answer is no text or number")


def _thoughts(text: str) -> tuple[str | None, str | None]:
    """What stands between think tags, and what comes after; (None, text) without tags, (thought, None) without an end."""
    opening, closing = _THINK
    if closing in text:
        before, _, after = text.rpartition(closing)
        return before.partition(opening)[2] if opening in before else before, after
    if text.lstrip().startswith(opening):
        return text.partition(opening)[2], None
    return None, text


def _last_object(text: str) -> tuple[int, str | None] | None:
    """Where the last object with the key begins, and its answer."""
    for key in reversed(list(_KEY.finditer(text))):
        window = max(0, key.start() - _LONGEST)
        start = text.rfind("{", window, key.start())
        while start >= 0:
            value = _decoded(text[start : key.end() + _LONGEST])
            if value is not None:
                return start, _plain(value[0])
            start = text.rfind("{", window, start)
        start = text.rfind("{", window, key.start())
        torn = _torn(text[key.end() : key.end() + _LONGEST])
        if torn is not None:
            return start if start >= 0 else key.start(), torn
    return None


def _decoded(text: str) -> tuple[Any] | None:
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return (value[KEY],) if isinstance(value, dict) and KEY in value else None


def _torn(rest: str) -> str | None:
    """A quoted string or a number after the key, where its object cannot be read."""
    found = re.match(r"\s*(?:\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'|(-?\d[\d,]*(?:\.\d+)?))", rest)
    return next((group for group in found.groups() if group is not None), None) if found else None


def _plain(value: Any) -> str | None:
    """A text or a number as it is; a list or object of them as their values in order; nothing else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str | int | float):
        text = str(value).strip()
        return text or None
    values = list(value.values()) if isinstance(value, dict) else value
    parts = (
        [_plain(part) for part in values]
        if len(values) <= 4 and not any(isinstance(v, dict | list) for v in values)
        else []
    )
    return " ".join(part for part in parts if part) if parts and all(parts) else None
