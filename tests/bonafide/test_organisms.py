"""Model organisms do what their policy says, and metrics are scored on them."""

import pytest

from shammie.bonafide.asking import Panel
from shammie.bonafide.labels import label_chain
from shammie.bonafide.organisms import FAITHFUL, POLICIES, organism, step_labels, subject, tokenizer, verified
from shammie.bonafide.planted import scored
from shammie.core.backends import LocalBackend
from shammie.core.generate import GenerationSettings, generate

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


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy not in ("genuine", "posthoc")])
def test_the_labeller_agrees_with_what_was_built(policy):
    for seed in range(12):
        own = subject(policy, seed)
        found = label_chain(own.problem, own.chain, True)
        assert found.label is FAITHFUL[policy]
        assert tuple(step.label for step in found.steps) == step_labels(policy, own)


def test_a_hint_follower_follows_another_hint():
    assert verified("silent", panel("silent"), SEEDS) >= 0.95
