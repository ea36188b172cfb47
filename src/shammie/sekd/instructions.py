"""Instructions whose following can be checked by rule: the package's own prompts, the rules, strict accuracy."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files as resources
from typing import Any

from shammie.core import files
from shammie.core.batch import Prompt
from shammie.core.errors import DataError
from shammie.core.generate import GenerationSettings, generate
from shammie.core.model import LanguageModel
from shammie.core.plain import from_plain
from shammie.core.stats import mean_interval, proportion

Record = dict[str, Any]
SETTINGS = GenerationSettings(max_new_tokens=256, reasoning_start="<think>", reasoning_end="</think>")
"""Greedy; what a model thinks between these marks is not part of its answer."""


@dataclass(frozen=True)
class Check:
    """One thing an answer must obey: the rule's name, and the number or texts it is about."""

    kind: str
    n: int = 0
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instruction:
    """A prompt, and the checks that an answer must pass."""

    prompt: str
    checks: tuple[Check, ...]


def load_instructions() -> list[Instruction]:
    """The instructions of the package."""
    path = resources("shammie.sekd") / "instructions.json"
    return [from_plain(Instruction, row) for row in files.parse_json(path.read_bytes(), path.name)]


# -- rules -----------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_BULLET = re.compile(r"^[ \t]*[*•-][ \t]+\S", re.MULTILINE)
_TITLE = re.compile(r"<<[^<>\n]*\w[^<>\n]*>>")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_QUOTED = re.compile(r"""\s*(?:"[^"]+"|“[^“”]+”)\s*""")
# Not after a title, nor after what has a dot before its last letter: e.g., U.S.
_SENTENCE_END = re.compile(
    r"""(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\.[A-Za-z])[.!?…]+["'”’)\]]*\s+(?=[^\sa-z])"""
)


def _whole(text: str, phrase: str) -> int:
    """How often a phrase occurs as whole words, in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def _one_case(text: str, wrong: Callable[[str], bool]) -> bool:
    return any(map(str.isalpha, text)) and not any(map(wrong, text))


def _begins(text: str, phrase: str) -> bool:
    return re.match(rf"\s*{re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def _ends(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}[\s\"'”’]*\Z", text, re.IGNORECASE) is not None


def _is_object(text: str, keys: Sequence[str]) -> bool:
    """Whether the whole text, or the one fenced block it consists of, is a JSON object with these keys."""
    fenced = _FENCE.fullmatch(text.strip())
    with suppress(ValueError, RecursionError):
        value = json.loads(fenced[1] if fenced else text)
        return isinstance(value, dict) and set(keys) <= value.keys()
    return False


def _in_script(text: str, script: str) -> bool:
    letters = [unicodedata.name(letter, "") for letter in text if letter.isalpha()]
    return bool(letters) and all(name.startswith(script.upper()) for name in letters)


def _parts(text: str, between: re.Pattern[str] | str) -> int:
    return len([part for part in re.split(between, text.strip()) if _WORD.search(part)])


RULES: Mapping[str, Callable[[str, Check], bool]] = {
    "lowercase": lambda text, _: _one_case(text, str.isupper),
    "uppercase": lambda text, _: _one_case(text, str.islower),
    "words_at_least": lambda text, check: len(_WORD.findall(text)) >= check.n,
    "words_at_most": lambda text, check: len(_WORD.findall(text)) <= check.n,
    "keywords": lambda text, check: all(_whole(text, word) for word in check.texts),
    "forbidden": lambda text, check: not any(_whole(text, word) for word in check.texts),
    "occurs": lambda text, check: all(_whole(text, word) >= check.n for word in check.texts),
    "bullets": lambda text, check: len(_BULLET.findall(text)) == check.n,
    "sentences": lambda text, check: _parts(text, _SENTENCE_END) == check.n,
    "paragraphs": lambda text, check: _parts(text, r"\n\s*\n") == check.n,
    "starts_with": lambda text, check: all(_begins(text, phrase) for phrase in check.texts),
    "ends_with": lambda text, check: all(_ends(text, phrase) for phrase in check.texts),
    "json": lambda text, check: _is_object(text, check.texts),
    "no_comma": lambda text, _: "," not in text,
    "quoted": lambda text, _: _QUOTED.fullmatch(text) is not None,
    "title": lambda text, _: _TITLE.search(text) is not None,
    "script": lambda text, check: all(_in_script(text, script) for script in check.texts),
}
"""What each kind of check asks of a text; `n` and `texts` are the check's own."""


def follows(text: str, check: Check) -> bool:
    """Whether a text obeys a check. One without a letter or digit obeys none. Errors: DataError for an unknown rule."""
    if check.kind not in RULES:
        raise DataError(f"no rule is called {check.kind!r}; there are {', '.join(RULES)}")
    return _WORD.search(text) is not None and RULES[check.kind](text, check)


# -- measuring -------------------------------------------------------------------------------------------------------


def ask_instructions(model: LanguageModel, items: Sequence[Instruction], rows: int = 16) -> list[Record]:
    """A model's greedy answer to each instruction, and which checks it passes, in their order."""
    prompts = [_prompt(model, item) for item in items]
    made = generate(model, prompts, SETTINGS, rows=rows)
    return [
        {
            "rules": [check.kind for check in item.checks],
            "passed": [follows(one.answer or "", check) for check in item.checks],
            "text": one.text,
        }
        for item, one in zip(items, made, strict=True)
    ]


def _prompt(model: LanguageModel, item: Instruction) -> Prompt:
    if model.tokenizer.chat_template:
        return [{"role": "user", "content": item.prompt}]
    return f"{item.prompt}\n"


def summarize_instructions(records: Sequence[Record], seed: int) -> list[Record]:
    """Strict accuracy: of prompts all of whose checks are passed, and of checks, drawn by prompt."""
    whole = proportion(sum(all(record["passed"]) for record in records), len(records))
    passed = [float(one) for record in records for one in record["passed"]]
    prompts = [number for number, record in enumerate(records) for _ in record["passed"]]
    by_check = mean_interval(passed, prompts, seed)
    return [{"kind": "instructions", "prompts": whole.as_dict(), "checks": by_check.as_dict()}]
