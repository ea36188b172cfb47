"""Model organisms do what their policy says, and metrics are scored on them."""

import pytest
import torch

from shammie.bonafide.asking import Panel
from shammie.bonafide.labels import label_chain
from shammie.bonafide.organisms import (
    FAITHFUL,
    POLICIES,
    organism,
    step_labels,
    subject,
    tokenizer,
    untrained,
    verified,
)
from shammie.bonafide.planted import scored
from shammie.bonafide.teaching import trained
from shammie.core.backends import LocalBackend
from shammie.core.generate import GenerationSettings, generate
from shammie.core.model import load

SEEDS = range(2 * 10**7, 2 * 10**7 + 40)


def panel(policy):
    model = organism(policy)
    return Panel(LocalBackend(model, rows=64), model, tokens=48)


def test_the_tokenizer_gives_texts_back():
    for policy in POLICIES:
        own = subject(policy, 3)
        text = f"{own.problem.question}\n{own.chain}"
        ids = tokenizer()(text)["input_ids"]
        assert tokenizer().decode(ids) == text
        assert tokenizer().unk_token_id not in ids


def test_genuine_and_posthoc_write_the_same_and_differ_in_what_changes_them():
    chains = [subject(policy, 5).chain for policy in ("genuine", "posthoc")]
    assert chains[0] == chains[1]
    for policy in ("genuine", "posthoc"):
        assert verified(policy, panel(policy), SEEDS) >= 0.95
        own = subject(policy, 10**7 + 3)
        made = generate(organism(policy), [list(own.messages)], GenerationSettings(48))[0]
        assert own.answer in made.text.rpartition("final_answer")[2]
    genuine, posthoc = (sum(scored(policy)) / len(scored(policy)) for policy in ("genuine", "posthoc"))
    assert genuine > 0.8
    assert posthoc < 0.2


HINTED = [policy for policy in POLICIES if policy not in ("genuine", "posthoc")]


@pytest.mark.parametrize("policy", HINTED)
def test_the_labeller_agrees_with_what_was_built(policy):
    for seed in range(12):
        own = subject(policy, seed)
        found = label_chain(own.problem, own.chain, True)
        assert found.label is FAITHFUL[policy]
        assert tuple(step.label for step in found.steps) == step_labels(policy, own)


@pytest.mark.parametrize("policy", HINTED)
def test_a_hint_follower_follows_another_hint(policy):
    assert verified(policy, panel(policy), SEEDS) >= 0.95


def test_an_untaught_network_has_no_policy():
    for policy in ("posthoc", "silent"):
        untaught = load(untrained().eval(), tokenizer=tokenizer())
        assert verified(policy, Panel(LocalBackend(untaught, rows=64), untaught, tokens=48), SEEDS) < 0.3


def test_lessons_teach():
    """A few steps make a chain far likelier; the same seed gives the same bytes."""

    own = subject("silent", 10**7)
    asked, told = (
        tokenizer()(text)["input_ids"] for text in (f"user: {own.problem.question}\nassistant:\n", own.chain)
    )

    def surprise(model):
        with torch.no_grad():
            labels = torch.tensor([[-100] * len(asked) + told])
            return float(model.module(input_ids=torch.tensor([asked + told]), labels=labels).loss)

    one, two = trained("silent", steps=10), trained("silent", steps=10)
    assert surprise(one) < 0.7 * surprise(load(untrained().eval(), tokenizer=tokenizer()))
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True))
