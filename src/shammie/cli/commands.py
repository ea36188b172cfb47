"""The table of commands. A room adds a command with one line here, and its planted truth with one in POWER."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from shammie.core.errors import ShammieError


class Command(NamedTuple):
    """Where a command's config class lives, and what it is for in one line."""

    module: str
    config: str
    help: str


COMMANDS: dict[str, Command] = {
    "tour": Command("shammie.cli.tour.command", "Tour", "open a model up, chapter by chapter, into one page"),
    "fetch": Command("shammie.cli.fetch", "Fetch", "bring a small bundled model; no account needed"),
    "doctor": Command("shammie.cli.doctor", "Doctor", "prove on its weights that a model is read and edited rightly"),
    "chat": Command("shammie.cli.chat", "Chat", "talk to a model, before and after a patch side by side"),
    "generate": Command("shammie.cli.generate", "Generate", "continue the prompts of a file"),
    "capture": Command("shammie.cli.capture", "Capture", "write a model's inner states over the texts of a file"),
    "apply": Command("shammie.cli.apply", "Apply", "write a patched model as a plain Hugging Face checkpoint"),
    "show": Command("shammie.cli.show", "Show", "draw a run's report.html and print its results"),
    "replay": Command("shammie.cli.replay", "Replay", "execute a finished run again and compare the results"),
    "power": Command("shammie.cli.power", "Power", "score a room's method where the truth is planted"),
    "rotate fit": Command("shammie.rotate.config", "Fit", "take neurons apart into channels, from weights alone"),
    "rotate describe": Command("shammie.rotate.config", "Describe", "say what neurons are about, from their channels"),
    "rotate find": Command("shammie.rotate.config", "Find", "find neurons that speak of a token or concept"),
    "rotate ablate": Command("shammie.rotate.config", "Ablate", "remove one channel from one neuron, as a patch"),
    "ember erase": Command(
        "shammie.ember.config", "EmberErase", "erase a concept from a model: patch, report, checkpoint"
    ),
    "ember evaluate": Command(
        "shammie.ember.config", "EmberEvaluate", "measure what a patch has erased and what it cost"
    ),
    "ember attack": Command("shammie.ember.config", "EmberAttack", "try to bring an erased concept back"),
    "ember check": Command("shammie.ember.config", "EmberCheck", "list what a concept pack holds and its leaks"),
    "mfa harvest": Command("shammie.mfa.config", "MfaHarvest", "stream activations to disk, packed and mapped"),
    "mfa fit": Command("shammie.mfa.config", "MfaFit", "fit a mixture of regions to activations"),
    "mfa describe": Command("shammie.mfa.config", "MfaDescribe", "say what regions are about"),
    "mfa find": Command("shammie.mfa.config", "MfaFind", "say in which regions a text's tokens lie"),
    "mfa steer": Command("shammie.mfa.config", "MfaSteer", "continue prompts with states pulled into a region"),
    "mfa localize": Command("shammie.mfa.config", "MfaLocalize", "find the features that carry a variable"),
    "ember convert": Command("shammie.ember.config", "EmberConvert", "turn the paper's layout into a concept pack"),
    "entity-cells localize": Command(
        "shammie.entity_cells.config", "CellsLocalize", "find the neuron that stands for each entity of a set"
    ),
    "entity-cells ablate": Command(
        "shammie.entity_cells.config", "CellsAblate", "make a model forget one entity, as a patch"
    ),
    "entity-cells inject": Command(
        "shammie.entity_cells.config", "CellsInject", "recall an unnamed entity by its cell, beside controls"
    ),
    "entity-cells report": Command(
        "shammie.entity_cells.config", "CellsReport", "the atlas of a set: trust, effects, layers, popularity"
    ),
    "sekd shrink": Command("shammie.sekd.config", "SekdShrink", "make a student of some of a model's layers"),
    "sekd score": Command("shammie.sekd.config", "SekdScore", "choose the texts that are worth distilling on"),
    "sekd cache": Command("shammie.sekd.config", "SekdCache", "write what a teacher says of a text to disk"),
    "sekd train": Command("shammie.sekd.config", "SekdTrain", "distil a teacher into a student where it counts"),
    "routing train": Command("shammie.routing.config", "RoutingTrain", "train a sparse decoder under a way of routing"),
    "routing inspect": Command("shammie.routing.config", "RoutingInspect", "say how a sparse model routes, and why"),
    "routing compare": Command("shammie.routing.config", "RoutingCompare", "set trainings side by side"),
    "beliefs trace": Command(
        "shammie.beliefs.config", "BeliefsTrace", "map which of two beliefs the states hold while a model answers"
    ),
    "beliefs settings": Command(
        "shammie.beliefs.config", "BeliefsSettings", "measure beliefs in states under claims from different sources"
    ),
    "beliefs intervene": Command(
        "shammie.beliefs.config", "BeliefsIntervene", "change the beliefs in states and see whether the choice follows"
    ),
    "beliefs monitor": Command(
        "shammie.beliefs.config",
        "BeliefsMonitor",
        "ask a model how strongly it believed, beside what outsiders can tell",
    ),
    "beliefs report": Command("shammie.beliefs.config", "BeliefsReport", "say clause by clause what beliefs do"),
    "bonafide generate": Command(
        "shammie.bonafide.config", "BonafideGenerate", "sample chains of thought whose faithfulness can be known"
    ),
    "bonafide label": Command(
        "shammie.bonafide.config", "BonafideLabel", "label chains and their sentences, with reasons"
    ),
    "bonafide measure": Command("shammie.bonafide.config", "BonafideMeasure", "score labelled chains with metrics"),
    "bonafide report": Command(
        "shammie.bonafide.config", "BonafideReport", "say how well metrics tell faithful from not"
    ),
    "recall run": Command("shammie.recall.config", "RecallRun", "ask questions with and without reasoning, many times"),
    "recall report": Command("shammie.recall.config", "RecallReport", "say whether and why reasoning helps recall"),
    "recall select": Command("shammie.recall.config", "RecallSelect", "answer by vote among traces with clean facts"),
    "thinking-states train": Command(
        "shammie.thinking_states.config", "ThinkingTrain", "teach a model to think while it reads, or a peer to reason"
    ),
    "thinking-states evaluate": Command(
        "shammie.thinking_states.config", "ThinkingEvaluate", "measure answers, thoughts, and whether states cause them"
    ),
    "thinking-states think": Command(
        "shammie.thinking_states.config", "ThinkingThink", "read a text and show every thought beside it"
    ),
    "thinking-states compare": Command(
        "shammie.thinking_states.config", "ThinkingCompare", "set ways of reasoning side by side"
    ),
    "sekd evaluate": Command("shammie.sekd.config", "SekdEvaluate", "measure a student beside its teacher"),
}

POWER: dict[str, str] = {  # room -> "module:NAME" of its core.power.PowerTest
    "ember": "shammie.ember.planted:POWER",
    "mfa": "shammie.mfa.planted:POWER",
    "entity-cells": "shammie.entity_cells.planted:POWER",
    "recall": "shammie.recall.planted:POWER",
    "beliefs": "shammie.beliefs.planted:POWER",
    "bonafide": "shammie.bonafide.planted:POWER",
    "routing": "shammie.routing.planted:POWER",
    "rotate": "shammie.rotate.planted:POWER",
    "sekd": "shammie.sekd.planted:POWER",
    "thinking-states": "shammie.thinking_states.planted:POWER",
}


def find(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command that a line starts with and the rest; names of two words go before names of one."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if len(words) >= count and name in COMMANDS:
            return name, list(words[count:])
    word = words[0]
    in_group = group(word)
    typed = " ".join(words[:2]) if in_group else word
    close = difflib.get_close_matches(typed, in_group or COMMANDS, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ShammieError(f"{typed!r} is no command{hint} (shammie {f'{word} ' if in_group else ''}--help lists them)")


def group(word: str) -> list[str]:
    """The two-word commands that start with `word`."""
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def config_class(name: str) -> type[Any]:
    """Import a command's config class; ShammieError when this version has no such command."""
    if name not in COMMANDS:
        raise ShammieError(f"this version of shammie has no command {name!r}; shammie --help lists them")
    command = COMMANDS[name]
    return getattr(importlib.import_module(command.module), command.config)


def planted(room: str) -> Any:
    """A room's planted test."""
    if room not in POWER:
        known = f"rooms that have one: {', '.join(POWER)}" if POWER else "no room of this version has one"
        raise ShammieError(f"{room!r} has no planted test; {known}")
    module, _, name = POWER[room].partition(":")
    return getattr(importlib.import_module(module), name)
