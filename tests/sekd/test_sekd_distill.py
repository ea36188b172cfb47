"""What a step computes, against dense autograd, exact expectations and exact budgets."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies
from torch.nn.functional import kl_div

from pico import build
from shammie.core.errors import DataError, ShammieError
from shammie.sekd.distill import Distiller, Examples
from shammie.sekd.equations import divergence, entropy, forward_kl, kl, sampled_kl
from shammie.sekd.heads import Head, chunked_sum
from shammie.sekd.policies import Selector
from shammie.sekd.settings import DistillSettings
from shammie.sekd.sparse import join, sample_classes
from shammie.sekd.vocabulary import shared_vocabulary


def pair(kind="llama"):
    torch.manual_seed(0)
    student, teacher = build(kind, seed=1), build(kind, seed=2)
    return student, teacher


def examples(windows=3, length=12, vocabulary=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (windows, length), generator=generator)
    valid = torch.rand(windows, length - 1, generator=generator) > 0.2
    return Examples(ids, valid)


def dense(student, teacher, batch, temperature=1.0, beta=0.0):
    ours = student.module(batch.ids[:, :-1]).logits.double() / temperature
    with torch.no_grad():
        theirs = teacher.module(batch.ids[:, :-1]).logits.double() / temperature
    return divergence(theirs.flatten(0, 1).log_softmax(-1), ours.flatten(0, 1).log_softmax(-1), beta)


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_all_positions_are_full_distillation(kind, beta, monkeypatch):
    monkeypatch.setattr("shammie.sekd.heads.BYTE_BUDGET", 4 * 260 * 5)  # several chunks
    student, teacher = pair(kind)
    batch = examples()
    for policy in ("all", "top"):
        settings = DistillSettings(policy=policy, budget=1.0, divergence=beta, temperature=1.5)
        found = Distiller(student, teacher, settings, shared_vocabulary(student, teacher))(batch, 0, torch.Generator())
        oracle = dense(student, teacher, batch, 1.5, beta)[batch.valid.flatten()].mean() * 1.5**2
        assert found.weight == int(batch.valid.sum()) == found.positions
        torch.testing.assert_close(found.sum / found.weight, oracle.float(), rtol=1e-4, atol=1e-6)
        ours, theirs = gradients(student.module, found.sum / found.weight), gradients(student.module, oracle)
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_only_chosen_positions_count():
    student, teacher = pair()
    batch = examples()
    found = Distiller(student, teacher, DistillSettings(budget=0.3), 260)
    states = student.module(batch.ids[:, :-1]).logits.detach().log_softmax(-1)
    entropies = (-states.exp() * states).sum(-1).masked_fill(~batch.valid, -math.inf)
    losses, wanted = dense(student, teacher, batch).view_as(entropies), []
    for row, valid in enumerate(batch.valid):
        count = math.ceil(round(0.3 * int(valid.sum()), 9))
        wanted.append(losses[row, entropies[row].topk(count).indices])
    result = found(batch, 0, torch.Generator())
    torch.testing.assert_close(result.sum, torch.cat(wanted).sum().float(), rtol=1e-4, atol=1e-6)
    assert result.weight == sum(map(len, wanted))
    assert result.chosen_score > result.score


@given(strategies.integers(0, 2**31), strategies.floats(0.01, 1.0), strategies.booleans())
@settings(max_examples=60, deadline=None)
def test_budgets_are_exact(seed, budget, level):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(4, 23, generator=generator) > 0.3
    valid[0, 0] = True
    scores = torch.randn(4, 23, generator=generator).round(decimals=1).abs()  # with ties
    counts = valid.sum(-1).tolist()
    mean = sum(counts) / 4
    wanted = [min(count, math.ceil(round(budget * (mean if level else count), 9))) for count in counts]
    for policy in ("top", "curriculum", "random", "sampled", "corrected"):
        selector = Selector(DistillSettings(policy=policy, budget=budget, equal_quota=level, curriculum_steps=10))
        for step in (0, 5, 20):
            found = selector(scores, valid, step, generator)
            rows = torch.bincount(found.index // 23, minlength=4).tolist()
            assert rows == wanted
            assert valid.flatten()[found.index].all()
            if policy not in ("sampled", "corrected"):
                assert len(found.index.unique()) == len(found.index)
    everything = Selector(DistillSettings(policy="all"))(None, valid, 0, generator)
    assert everything.index.tolist() == valid.flatten().nonzero()[:, 0].tolist()


def test_a_curriculum_rises_from_the_lowest_to_the_highest():
    scores, valid = torch.arange(20.0).flip(0)[None], torch.ones(1, 20, dtype=torch.bool)
    selector = Selector(DistillSettings(policy="curriculum", budget=0.25, curriculum_steps=10))
    means = [float(scores[0, selector(scores, valid, step, torch.Generator()).index].mean()) for step in (0, 5, 10, 99)]
    assert means[0] == 2.0
    assert 8.0 <= means[1] <= 11.0
    assert means[2] == means[3] == 17.0


def test_a_global_threshold_is_the_quantile_of_the_scores_before():
    selector = Selector(DistillSettings(policy="global", budget=0.25, recent_scores=8))
    valid = torch.ones(1, 4, dtype=torch.bool)
    first = selector(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), valid, 0, torch.Generator())
    assert first.index.tolist() == [1]  # nothing remembered yet: the highest of the window
    second = selector(torch.tensor([[3.3, 3.2, 9.0, 0.0]]), valid, 1, torch.Generator())
    assert second.index.tolist() == [0, 2]  # the 0.75 quantile of 1, 2, 3, 4 is 3.25
    selector(torch.tensor([[5.0, 6.0, 7.0, 8.0]]), valid, 2, torch.Generator())
    assert sorted(selector.recent.tolist()) == pytest.approx([0.0, 3.2, 3.3, 5.0, 6.0, 7.0, 8.0, 9.0])
    none = selector(torch.tensor([[0.0, 0.1, 0.2, 0.3]]), valid, 3, torch.Generator())
    assert none.index.tolist() == [3]  # nothing is as high: the highest of the window again


def test_corrected_draws_are_unbiased_and_plain_ones_follow_the_scores():
    scores, losses = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([3.0, -1.0, 2.0])
    valid = torch.ones(1, 3, dtype=torch.bool)
    chance = scores[0] / scores.sum()
    expected = {"corrected": losses.mean(), "sampled": (chance * losses).sum()}
    for policy, mean in expected.items():
        # A budget of one third draws once, so the expectation is a sum over the three positions.
        selector = Selector(DistillSettings(policy=policy, budget=1 / 3))
        seen, total = {}, 0.0
        generator = torch.Generator().manual_seed(0)
        while len(seen) < 3:
            found = selector(scores, valid, 0, generator)
            seen[int(found.index)] = float(found.weights @ losses[found.index]) / found.total
        total = sum(float(chance[index]) * value for index, value in seen.items())
        assert total == pytest.approx(float(mean), rel=1e-5)


def exact_gradients(log_p, logits, draws):
    """The expected gradient of RS-KD over every outcome of `draws` draws, and full distillation's."""
    classes = log_p.shape[-1]
    expected = torch.zeros_like(logits)
    for outcome in torch.cartesian_prod(*[torch.arange(classes)] * draws).view(-1, draws):
        counts = torch.bincount(outcome, minlength=classes)
        ids = counts.nonzero()[:, 0]
        chance = float(log_p[0, outcome].sum().exp())
        free = logits.clone().requires_grad_()
        log_q = free.log_softmax(-1)
        loss = sampled_kl(counts[ids], torch.zeros(len(ids), dtype=torch.long), log_q[0, ids], draws, 1).sum()
        expected += chance * torch.autograd.grad(loss, free)[0]
    free = logits.clone().requires_grad_()
    full = torch.autograd.grad(kl(log_p, free.log_softmax(-1)).sum(), free)[0]
    return expected, full


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_sampled_classes_have_the_gradient_of_full_distillation_in_expectation(draws):
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(1, 4, generator=generator, dtype=torch.float64).log_softmax(-1)
    logits = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    expected, full = exact_gradients(log_p, logits, draws)
    torch.testing.assert_close(expected, full)


def test_drawn_classes_follow_the_teacher():
    log_p = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.0, 0.0, 0.0, 1.0]]).log().repeat(400, 1)
    found = sample_classes(log_p, 50, torch.Generator().manual_seed(0))
    assert (torch.zeros(800).long().index_add(0, found.rows, found.counts) == 50).all()
    table = torch.zeros(800, 4).index_put((found.rows, found.ids), found.counts.float(), accumulate=True)
    torch.testing.assert_close(table[0::2].mean(0) / 50, torch.tensor([0.5, 0.3, 0.2, 0.0]), atol=0.015, rtol=0)
    assert (table[1::2] == torch.tensor([0.0, 0.0, 0.0, 50.0])).all()
    assert all(ids.tolist() == sorted(set(ids.tolist())) for ids in found.ids.split(found.offsets.diff().tolist()))


def test_few_classes_of_any_position_are_the_same_wherever_they_stand():
    log_p = torch.randn(9, 30, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    found = sample_classes(log_p, 7, torch.Generator().manual_seed(1))
    order = torch.tensor([4, 4, 0, 8])
    taken = found.take(order)
    for place, index in enumerate(order.tolist()):
        one = found.take(torch.tensor([index]))
        again = taken.take(torch.tensor([place]))
        assert one.ids.equal(again.ids)
        assert one.counts.equal(again.counts)
    both = join([taken, found])
    assert len(both) == 13
    assert both.take(torch.arange(4, 13)).ids.equal(found.ids)


def test_a_cache_gives_the_loss_of_its_classes():
    student, teacher = pair()
    batch = examples()
    with torch.no_grad():
        log_p = teacher.module(batch.ids[:, :-1]).logits.flatten(0, 1).log_softmax(-1)
    sparse = sample_classes(log_p, 50, torch.Generator().manual_seed(3))
    cached = Examples(batch.ids, batch.valid, sparse)
    settings = DistillSettings(classes="sampled", budget=0.4)
    found = Distiller(student, None, settings, 260)(cached, 0, torch.Generator())
    log_q = student.module(batch.ids[:, :-1]).logits.flatten(0, 1).double().log_softmax(-1)
    p = torch.zeros(33, 260, dtype=torch.float64).index_put((sparse.rows, sparse.ids), sparse.counts.double() / 50)
    oracle = kl_div(log_q, p, reduction="none").sum(-1)
    chosen = Selector(settings)(entropy(log_q.clone()).view(3, 11), batch.valid, 0, torch.Generator()).index
    torch.testing.assert_close(found.sum, oracle[chosen].sum().float(), rtol=1e-4, atol=1e-5)


def test_a_wider_head_of_the_teacher_is_cut_and_renormalized():
    student = build("llama", seed=1)
    teacher = build("llama", seed=2, vocab_size=300)
    batch = examples()
    assert shared_vocabulary(student, teacher) == student.module.config.vocab_size < 300
    found = Distiller(student, teacher, DistillSettings(policy="all"), 260)(batch, 0, torch.Generator())
    ours = student.module(batch.ids[:, :-1]).logits.double().flatten(0, 1).log_softmax(-1)
    theirs = teacher.module(batch.ids[:, :-1]).logits.double().flatten(0, 1)[:, :260].log_softmax(-1)
    torch.testing.assert_close(found.sum, kl(theirs, ours)[batch.valid.flatten()].sum().float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"signal": "kl", "classes": "sampled"}, "kl"), ({}, "full"), ({"classes": "top"}, "top")],
)
def test_what_a_cache_cannot_give_is_refused(changes, named):
    with pytest.raises(ShammieError, match=named):
        Distiller(build("llama"), None, DistillSettings(**changes), 260)


@pytest.mark.parametrize("policy", ["all", "top", "random", "sampled"])
def test_a_batch_without_valid_positions_is_refused(policy):
    with pytest.raises(DataError, match="no position of this batch is valid"):
        Selector(DistillSettings(policy=policy))(torch.ones(2, 3), torch.zeros(2, 3).bool(), 0, torch.Generator())


def test_masked_classes_have_no_part():
    log_p = torch.tensor([[0.0, 0.0, -math.inf]]).log_softmax(-1)
    log_q = torch.tensor([[1.0, 0.0, -math.inf]]).log_softmax(-1)
    assert math.isfinite(float(kl(log_p, log_q)))
    torch.testing.assert_close(entropy(torch.tensor([[0.0, 0.0, -math.inf]])), torch.tensor([math.log(2)]))
    torch.testing.assert_close(forward_kl(log_p, log_q), kl(log_p, log_q))


def test_entropy_and_forward_kl_are_their_definitions():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (5 * torch.randn(20, 50, generator=generator) for _ in range(2))
    log_p, log_q = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    torch.testing.assert_close(entropy(teacher).double(), -(log_p.exp() * log_p).sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forward_kl(teacher, student).double(), kl(log_p, log_q), rtol=1e-4, atol=1e-5)


def test_no_more_than_a_chunk_of_logits_is_ever_held(monkeypatch):
    student = build("llama")
    head = Head(student.anatomy, 260)
    monkeypatch.setattr("shammie.sekd.heads.BYTE_BUDGET", 4 * 260 * 3)
    seen = []
    states = torch.randn(10, student.module.config.hidden_size, requires_grad=True)
    total = chunked_sum(head, states, lambda _, logits: seen.append(logits.shape) or logits.square().sum())
    total.backward()
    assert [shape[0] for shape in seen] == [3, 3, 3, 1]
    free = states.detach().clone().requires_grad_()
    head.logits(free).square().sum().backward()
    torch.testing.assert_close(states.grad, free.grad, rtol=1e-4, atol=1e-4)
