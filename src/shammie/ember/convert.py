"""The layout in which the paper's concept data circulate, turned into a concept pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shammie.core import files
from shammie.core.answers import normalize
from shammie.core.errors import DataError
from shammie.core.plain import from_plain
from shammie.ember.pack import ConceptPack, shared

_PLACES = {"questions": "QA", "similar": "SimdomQA"}
_SPLITS = {"validation": "train", "test": "test"}
_HELD_OUT = 40  # of a list of neutral sentences, for each half of coherence


def convert_pack(concept: Path, neutral: Path | None) -> ConceptPack:
    """Read {concept, sentences, multiple_choice, open, relearn_paragraphs}, and a JSON list of neutral sentences.

    Choice and open versions of a question become one. The last 80 neutral sentences are held out for coherence; without
    a list, the shipped neutral sentences serve. Errors: DataError naming what is missing.
    """
    content = files.read_json(concept)
    parts = ("concept", "sentences", "multiple_choice", "open", "relearn_paragraphs")
    if not isinstance(content, dict) or (missing := [name for name in parts if name not in content]):
        lacks = "is no object" if not isinstance(content, dict) else f"lacks {missing[0]!r}"
        raise DataError(f"{concept} {lacks}; it must hold {', '.join(parts)}")
    fields: dict[str, Any] = {name: shared()[name] for name in ("neutral_sentences", "general", "coherence")}
    if neutral is not None:
        fields |= _neutral(neutral)
    for name, place in _PLACES.items():
        fields[name] = {
            split: _questions(concept, content["multiple_choice"], content["open"], f"{place}_{ending}")
            for split, ending in _SPLITS.items()
        }
    fields |= {"concept": content["concept"], "concept_sentences": content["sentences"]}
    return from_plain(ConceptPack, fields | {"relearning": content["relearn_paragraphs"]})


def _neutral(path: Path) -> dict[str, Any]:
    texts = files.read_json(path)
    if not isinstance(texts, list) or len(texts) < 4 * _HELD_OUT or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path} must hold a JSON list of at least {4 * _HELD_OUT} sentences")
    used, held = texts[: -2 * _HELD_OUT], texts[-2 * _HELD_OUT :]
    return {"neutral_sentences": used, "coherence": {"validation": held[:_HELD_OUT], "test": held[_HELD_OUT:]}}


def _questions(path: Path, choice: Mapping[str, Any], opened: Mapping[str, Any], name: str) -> Sequence[dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    try:
        for item in choice.get(name, []):
            answer = item["correct_answer"].strip()
            options = list(dict.fromkeys(option.strip() for option in item["options"]))
            made[normalize(item["q"])] = {"question": item["q"].strip(), "answer": answer, "choices": options}
        for item in opened.get(name, []):
            said = item["a"].strip()
            found = made.setdefault(normalize(item["q"]), {"question": item["q"].strip(), "answer": said})
            if normalize(said) != normalize(found["answer"]):
                found["aliases"] = [said]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}, {name}: a question lacks the field {error}; it needs q with a, or correct_answer and options"
        ) from None
    return [item for item in made.values() if "choices" not in item or item["answer"] in item["choices"]]
