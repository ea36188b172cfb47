"""Judges: a versioned prompt, a closed set of verdicts, and every call kept in a log that is also the cache."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Protocol

from shammie.core import files
from shammie.core.errors import BackendError, DataError, ShammieError

LOG = "judgements.jsonl"
BATCH = 64  # prompts given to the completer at once; a kill loses at most these
UNPARSABLE = "unparsable"
_NEGATED = re.compile(r"(?:\b(?:not|never|neither|nor|cannot)(?: be)?|n't(?: be)?)\s+\W*$", re.IGNORECASE)
_LABEL = re.compile(r"[\W_]*(?:(?:(?:my|the|final) )*(?:verdict|answer|grade|label|judge?ment)\W+(?:is\W+)?)?", re.I)
_STATED = re.compile(r'"verdict"\s*:\s*"([^"]*)"')
_END = re.compile(r"[^\w\n]*?(?:[.;!\n]|$)")


class Completer(Protocol):
    """What turns prompts into texts: a local model, an endpoint, a stub. `identity` names model and settings."""

    identity: str

    def complete(self, prompts: Sequence[str]) -> list[str]:
        """Return one text for each prompt, in order."""
        ...


@dataclass(frozen=True)
class JudgePrompt:
    """A named, versioned question with fields written $name (a dollar sign as $$) and the only verdicts it allows.

    Verdicts are words or phrases, told apart without regard to case; a space, hyphen or underscore in one is the same.
    """

    name: str
    version: str
    template: str
    verdicts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.verdicts or len({_key(verdict) for verdict in self.verdicts}) < len(self.verdicts):
            raise ShammieError(f"judge prompt {self.name!r} needs verdicts that differ by more than case")
        if not all(re.fullmatch(r"\w(?:.*\w)?", verdict) for verdict in self.verdicts):
            raise ShammieError(f"judge prompt {self.name!r} has a verdict that does not begin and end with a word")
        if not Template(self.template).is_valid():
            raise ShammieError(f"judge prompt {self.name!r} has a $ that begins no field; write $$ for the sign itself")

    def fill(self, record: Mapping[str, object]) -> str:
        """Put a record's values into the template; other keys of the record are ignored."""
        try:
            return Template(self.template).substitute(record)
        except KeyError as error:
            raise ShammieError(f"judge prompt {self.name!r} lacks the field {error}; add it to the record") from None

    def parse(self, text: str) -> str | None:
        """Read the verdict out of a judge's reply; None when it states none, never a guess.

        A `<think>` block is skipped. The last `"verdict": "..."` of JSON decides. Without one the verdict decides
        that fills a line or its first sentence ("Verdict: CORRECT."), else the only one named at all unless it is
        negated ("not correct"). Where two differ, none is stated.
        """
        reply = text.rpartition("</think>")[2]
        if "<think>" in reply:
            return None
        known = {_key(verdict): verdict for verdict in self.verdicts}
        if stated := _STATED.findall(reply):
            return known.get(_key(stated[-1]))
        words = list(_verdict_pattern(self.verdicts).finditer(reply))
        filling = [
            word
            for word in words
            if _LABEL.fullmatch(reply[: word.start()].rpartition("\n")[2]) and _END.match(reply, word.end())
        ]
        named = {known[_key(word[0])] for word in filling or words}
        negated = not filling and any(_NEGATED.search(reply[: word.start()]) for word in words)
        return named.pop() if len(named) == 1 and not negated else None


@dataclass(frozen=True)
class Judgement:
    """One reply of a judge; `verdict` is None when the reply states none of the allowed ones."""

    verdict: str | None
    raw: str
    cached: bool
    judge: str


def tally(judgements: Sequence[Judgement]) -> dict[str, int]:
    """Count verdicts; replies without one count under "unparsable", which is always there."""
    counts = Counter(UNPARSABLE if item.verdict is None else item.verdict for item in judgements)
    return {UNPARSABLE: 0, **counts}


class Judge:
    """A completer that gives verdicts, asked once for each prompt text and remembered.

    With a directory, every call is one line of `judgements.jsonl` there, and later judges with the same identity read
    it back; a corrupt line is counted in `corrupt_lines` and its prompt asked again. Processes may share a directory.
    Without one the memory lasts as long as the object.
    """

    def __init__(self, completer: Completer, directory: str | Path | None = None) -> None:
        self.completer = completer
        self.corrupt_lines = 0
        self._log = None if directory is None else Path(directory) / LOG
        self._length = 0
        self._replies: dict[str, str] = {}
        if self._log is not None:
            self._catch_up(self._log)

    def judge(self, prompt: JudgePrompt, records: Sequence[Mapping[str, object]]) -> list[Judgement]:
        """Judge records, one prompt each, in order; equal prompts are asked once.

        Errors: ShammieError for a missing field, BackendError when the completer gives another number of texts.
        """
        texts = [prompt.fill(record) for record in records]
        keys = [self._key(prompt, text) for text in texts]
        open_calls = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._replies}
        pending = list(open_calls.items())
        for start in range(0, len(pending), BATCH):
            self._ask(prompt, pending[start : start + BATCH])
        judge = self.completer.identity
        replies = [(self._replies[key], key not in open_calls) for key in keys]
        return [Judgement(prompt.parse(raw), raw, cached, judge) for raw, cached in replies]

    def _key(self, prompt: JudgePrompt, text: str) -> str:
        parts = [self.completer.identity, prompt.name, prompt.version, text]
        return files.sha256_bytes(json.dumps(parts).encode())

    def _ask(self, prompt: JudgePrompt, calls: Sequence[tuple[str, str]]) -> None:
        replies = self.completer.complete([text for _, text in calls])
        if len(replies) != len(calls) or not all(isinstance(reply, str) for reply in replies):
            raise BackendError(
                f"judge {self.completer.identity!r} gave {len(replies)} replies to {len(calls)} prompts, or one that "
                "is no text; mend its completer"
            )
        lines = []
        for (key, text), raw in zip(calls, replies, strict=True):
            call = {"key": key, "judge": self.completer.identity, "prompt": prompt.name, "version": prompt.version}
            lines.append(json.dumps({**call, "text": text, "raw": raw, "verdict": prompt.parse(raw)}))
            self._replies[key] = raw
        if self._log is not None:
            with files.lock(self._log.with_suffix(".lock"), blocking=True):
                self._catch_up(self._log)
                data = ("\n".join(lines) + "\n").encode()
                self._length = files.append(self._log, data, at=self._length)

    def _catch_up(self, log: Path) -> None:
        """Read the whole lines that were added since; a torn last line is left for the next append to write over."""
        if not log.exists():
            return
        with files.reading(log), log.open("rb") as stream:
            stream.seek(self._length)
            added = stream.read()
        added = added[: added.rfind(b"\n") + 1]
        self._length += len(added)
        for line in added.split(b"\n")[:-1]:
            try:
                call = files.parse_json(line, log)
                self._replies.setdefault(str(call["key"]), str(call["raw"]))
            except (DataError, KeyError, TypeError):
                self.corrupt_lines += 1


class RegexCompleter:
    """A judge without a model: answers with the verdict of the first of its patterns that the prompt's text holds."""

    def __init__(self, patterns: Sequence[tuple[str, str]]) -> None:
        try:
            self._patterns = [(re.compile(pattern), verdict) for pattern, verdict in patterns]
        except re.error as error:
            raise ShammieError(f"pattern {error.pattern!r} of the regex judge is broken: {error}") from error
        self.identity = f"regex-{files.sha256_bytes(json.dumps(patterns).encode())[:12]}"

    def complete(self, prompts: Sequence[str]) -> list[str]:
        """One verdict a prompt, empty where no pattern is found; a template of "$response" shows the reply alone."""
        return [next((verdict for pattern, verdict in self._patterns if pattern.search(text)), "") for text in prompts]


def _key(verdict: str) -> str:
    return re.sub(r"[\s_-]+", " ", verdict.strip()).casefold()


def _verdict_pattern(verdicts: Sequence[str]) -> re.Pattern[str]:
    """Any verdict as a word of its own, the longest first, so that INCORRECT never reads as CORRECT."""
    longest = sorted(verdicts, key=len, reverse=True)
    choices = "|".join(r"[\s_-]+".join(map(re.escape, _key(verdict).split(" "))) for verdict in longest)
    return re.compile(rf"(?<![\w-])(?:{choices})(?![\w-])", re.IGNORECASE)
