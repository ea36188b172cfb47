"""Edits mean the same with cache, padding, batching and generation, and leave nothing behind, in every family."""

from __future__ import annotations

import pytest
import torch
from parity_tools import close, digest, hooks, prompts, ragged, sites
from torch import Tensor

import pico
from shammie.core.batch import pad
from shammie.core.capture import capture
from shammie.core.edit import Edit, add, clamp, edited, project_out, replace, scale
from shammie.core.errors import SiteError
from shammie.core.generate import GenerationSettings, complete
from shammie.core.model import LanguageModel
from shammie.core.position import ALL, GENERATED, LAST, PROMPT, Positions, Span, rows_of
from shammie.core.site import Site, expert_neurons, residual, router
from shammie.core.vocabulary import norm_weight

families = pytest.mark.parametrize("family", pico.FAMILIES)
CHOICES = {"span": Span(1, 3), "last": LAST, "prompt": PROMPT, "all": ALL, "generated": GENERATED}
NEW = 3


def width(model: LanguageModel, site: Site) -> int:
    return model.anatomy.neuron_count(site.layer) if site.kind == "neurons" and site.layer is not None else 32


def push(model: LanguageModel, site: Site, positions: Positions = ALL, *, scale: float = 0.4) -> Edit:
    """Adds another vector for each prompt, growing with the absolute position: any slip of row or position shows."""
    table = scale * torch.randn(8, width(model, site), generator=torch.Generator().manual_seed(3))

    def function(state: Tensor, position: Tensor, row: Tensor) -> Tensor:
        return state + table[row][:, None] * (1 + position[..., None] / 4)

    return Edit(site, function, positions)


def logits(model: LanguageModel, sequences: list[list[int]], row: list[int], prompt_lengths: list[int]) -> Tensor:
    """One plain forward of the module over whole sequences, right-padded."""
    batch = pad(sequences, row=row)
    with rows_of(batch.row, torch.tensor(prompt_lengths)), torch.no_grad():
        return model.module(**batch.inputs(), use_cache=False).logits


def written(model: LanguageModel, given: list[list[int]], **options: object) -> tuple[list[list[int]], Tensor]:
    """Hugging Face's generate on a left-padded batch: what it wrote and the logits [B, NEW, V] it chose from."""
    longest = max(map(len, given))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in given])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in given])
    out = model.module.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True, **options,
    )  # fmt: skip
    return out.sequences[:, longest:].tolist(), torch.stack(out.logits, 1)


# --- generation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", CHOICES)
@families
def test_cached_padded_generation_is_single_whole_prompts(family: str, choice: str) -> None:
    """`module.generate` on a left-padded batch under an edit, against each whole sequence in one forward pass."""
    model, given = pico.shared(family), prompts(8, 4)
    _, clean = written(model, given)
    for site in sites(model, editable=True):
        if site.layer not in (None, 1):
            continue
        with edited(model, [push(model, site, CHOICES[choice])]):
            new, steps = written(model, given)
            for row, prompt in enumerate(given):
                whole = logits(model, [prompt + new[row]], [row], [len(prompt)])[0]
                close(steps[row], whole[len(prompt) - 1 : -1])
        if choice == "generated":  # the first new token comes from the prompt alone
            close(steps[:, 0], clean[:, 0])
            steps, clean_steps = steps[:, 1:], clean[:, 1:]
        else:
            clean_steps = clean
        assert float((steps - clean_steps).abs().amax((1, 2)).min()) > 1e-3, f"{site} did not move every row"


@families
def test_every_layer_under_generation(family: str) -> None:
    model, given = pico.shared(family), prompts(4, 8)
    for site in sites(model, editable=True):
        with edited(model, [push(model, site)]):
            new, steps = written(model, given)
            whole = logits(model, [p + n for p, n in zip(given, new, strict=True)], [0, 1], [4, 8])
            for row, prompt in enumerate(given):
                close(steps[row], whole[row, len(prompt) - 1 : len(prompt) - 1 + NEW])


@families
def test_uncached_generation_is_cached_generation(family: str) -> None:
    """Without a cache every step is a new forward pass, so the caller must say how long the prompts are."""
    model, given = pico.shared(family), prompts(8, 5)
    edits = [push(model, Site("residual", 0), LAST), push(model, Site("mlp_out", 1), GENERATED)]
    edits.append(push(model, Site("attention_out", 2), Span(-3, -1)))
    with edited(model, edits):
        new, steps = written(model, given)
        with rows_of(torch.arange(2), torch.tensor([8, 5])):
            again, uncached = written(model, given, use_cache=False)
    assert new == again
    close(steps, uncached)


@families
def test_one_context_serves_many_generations(family: str) -> None:
    """The prompt's length is learnt anew from each generation, whatever the batch was before."""
    model = pico.shared(family)
    edit = push(model, residual(1), LAST)
    batches = [prompts(8, 4), prompts(3, 6, seed=1), prompts(5, seed=2)]
    with edited(model, [edit]):
        together = [written(model, given)[1] for given in batches]
    for given, steps in zip(batches, together, strict=True):
        with edited(model, [edit]):
            close(written(model, given)[1], steps, 1e-6)


@families
def test_own_generation_under_edits(family: str) -> None:
    """Batched with shared prefixes, alone, and by whole forward passes: the same tokens and log-probabilities."""
    model, shared = pico.shared(family), prompts(20, seed=4)[0]
    given = [shared + tail for tail in prompts(3, 1, 6)]
    settings = GenerationSettings(max_new_tokens=4, temperature=0.8, seed=1)
    edits = [push(model, Site("residual_in", 1), LAST), push(model, Site("mlp_out", 0), GENERATED)]
    edits.append(push(model, Site("embedding"), Span(2, 30)))
    jobs = [(row, 0) for row in range(3)]
    with edited(model, edits):
        together = complete(model, given, jobs, settings)
        alone = [complete(model, given, [job], settings)[0] for job in jobs]
        for row, (prompt, made) in enumerate(zip(given, together, strict=True)):
            assert made.tokens == alone[row].tokens
            tokens = list(made.tokens)
            whole = logits(model, [prompt + tokens], [row], [len(prompt)])[0].log_softmax(-1)
            own = whole[len(prompt) - 1 : -1].gather(-1, torch.tensor(tokens)[:, None])
            assert made.log_probability == pytest.approx(float(own.sum()), abs=1e-4)
            assert alone[row].log_probability == pytest.approx(float(own.sum()), abs=1e-4)
    assert complete(model, given, jobs, settings)[0].log_probability != together[0].log_probability


# --- plain forward passes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["span", "last", "all"])
@families
def test_right_padded_batch_is_single_prompts(family: str, choice: str) -> None:
    model, batch, given = pico.shared(family), ragged(), prompts()
    clean = capture(model, batch, [], logits=True).logits
    for site in sites(model, editable=True):
        if site.layer not in (None, 1):
            continue
        with edited(model, [push(model, site, CHOICES[choice])]):
            together = capture(model, batch, [site], logits=True)
            assert together.logits is not None
            for row, prompt in enumerate(given):
                alone = capture(model, pad([prompt], row=[row]), [site], logits=True)
                assert alone.logits is not None
                close(together.logits[row, : len(prompt)], alone.logits[0])
                close(together[site][row, : len(prompt)], alone[site][0])
            assert clean is not None
            moved = (together.logits - clean).abs().amax(-1)[batch.mask.bool()]
            assert float(moved.max()) > 1e-3


@families
def test_only_what_is_chosen_changes(family: str) -> None:
    """Tokens before the edited position, and padding, keep every bit; the edited state is what the function says."""
    model, batch = pico.shared(family), ragged()
    for site in sites(model, editable=True):
        vector = torch.randn(width(model, site), generator=torch.Generator().manual_seed(5))
        clean = capture(model, batch, [site], logits=True)
        with edited(model, [add(site, vector, strength=0.5, positions=Span(2, 3))]):
            seen = capture(model, batch, [site], logits=True)
        assert clean.logits is not None
        assert seen.logits is not None
        if family in pico.DENSE:  # experts take all tokens at once, and so round a token by its company
            assert torch.equal(seen.logits[:, :2], clean.logits[:, :2])
        close(seen.logits[:, :2], clean.logits[:, :2])
        expected = clean[site].clone()
        expected[:, 2] = expected[:, 2] + 0.5 * vector
        assert torch.equal(seen[site], expected)


@families
def test_every_kind_of_edit_at_every_kind_of_site(family: str) -> None:
    """Each function against its definition, on the state that the next module really receives."""
    model, batch = pico.shared(family), ragged()
    real = batch.mask.bool()
    for site in sites(model, editable=True):
        if site.layer not in (None, 1):
            continue
        size = width(model, site)
        directions = torch.randn(2, size, generator=torch.Generator().manual_seed(6))
        some = (1, size - 1)
        state = capture(model, batch, [site])[site]
        basis = torch.linalg.svd(directions, full_matrices=False).Vh
        picked, zeroed, clipped = state.clone(), state.clone(), state.clone()
        picked[..., list(some)], zeroed[..., list(some)] = 0.25, 0.0
        clipped[..., list(some)] = clipped[..., list(some)].clamp(-0.1, 0.1)
        for edit, expected in [
            (scale(site, -1.0), -state),
            (scale(site, 0.0, coordinates=some), zeroed),
            (clamp(site, -0.1, 0.1, coordinates=some), clipped),
            (clamp(site, 0.0), state.clamp(min=0.0)),
            (project_out(site, directions), state - state @ basis.T @ basis),
            (replace(site, directions[0]), directions[0].expand_as(state)),
            (replace(site, torch.full((2,), 0.25), coordinates=some), picked),
            (add(site, directions[1], strength=-2.0), state - 2 * directions[1]),
        ]:
            with edited(model, [edit]):
                close(capture(model, batch, [site])[site][real], expected[real], 1e-5)


@families
def test_edits_on_one_site_follow_one_another(family: str) -> None:
    model, batch = pico.shared(family), ragged()
    ones = torch.ones(32)
    with edited(model, [add(residual(1), ones), scale(residual(1), 3.0)]):
        first = capture(model, batch, [residual(1)])[residual(1)]
    with edited(model, [scale(residual(1), 3.0)]), edited(model, [add(residual(1), ones)]):
        second = capture(model, batch, [residual(1)])[residual(1)]
    state = capture(model, batch, [residual(1)])[residual(1)]
    real = batch.mask.bool()
    close(first[real], (state[real] + 1) * 3, 1e-6)
    close(second[real], state[real] * 3 + 1, 1e-6)


@families
def test_strength_zero_changes_no_bit(family: str) -> None:
    model, batch = pico.shared(family), ragged()
    everywhere = sites(model, editable=True)
    clean = capture(model, batch, [], logits=True).logits
    assert clean is not None
    zero = [add(site, torch.randn(width(model, site)), strength=0.0) for site in everywhere]
    one = [scale(site, 1.0, coordinates=(0, 3)) for site in everywhere]
    for edits in (zero, one):
        with edited(model, edits):
            same = capture(model, batch, [], logits=True).logits
        assert same is not None
        assert torch.equal(same, clean)


@families
def test_nothing_is_left_behind(family: str) -> None:
    """Weights and hooks are as before, after a clean exit, an error in the block, and an error in the edit itself."""
    model, batch = pico.shared(family), ragged()
    before, count = digest(model.module), hooks(model.module)
    clean = capture(model, batch, [], logits=True).logits
    edits = [push(model, site) for site in sites(model, editable=True)]

    def broken(state: Tensor, position: Tensor, row: Tensor) -> Tensor:
        raise KeyError("mine")

    with edited(model, edits):
        capture(model, batch, [residual(1)])
        written(model, prompts(4))
        assert hooks(model.module) == count + len(edits) + 1
        assert model.edits_in_force == len(edits)
        assert digest(model.module) == before
    with pytest.raises(RuntimeError, match="mine"), edited(model, edits):
        raise RuntimeError("mine")
    with pytest.raises(KeyError, match="mine"), edited(model, [*edits, Edit(residual(2), broken)]):
        written(model, prompts(4))
    with pytest.raises(SiteError, match="layer 7"), edited(model, [*edits, push(model, Site("residual", 7))]):
        pass
    assert digest(model.module) == before
    assert hooks(model.module) == count
    assert model.edits_in_force == 0
    after = capture(model, batch, [], logits=True).logits
    assert clean is not None
    assert after is not None
    assert torch.equal(clean, after)


@pytest.mark.parametrize("family", pico.SPARSE)
def test_recomputed_sites_cannot_be_edited(family: str) -> None:
    model = pico.shared(family)
    count = hooks(model.module)
    for site in (router(0), expert_neurons(0, (1,))):
        with pytest.raises(SiteError, match="recomputed beside the model and can only be read"):
            edited(model, [Edit(site, lambda state, _p, _r: state)]).__enter__()
    with pytest.raises(SiteError, match="sparse layer"):
        edited(model, [scale(Site("neurons", 0), 0.0)]).__enter__()
    assert hooks(model.module) == count
    assert model.edits_in_force == 0


@families
def test_effective_norm_weight(family: str) -> None:
    """The lens scale that vocabulary claims is the one that the final norm applies."""
    model = pico.shared(family)
    states = torch.randn(6, 32, generator=torch.Generator().manual_seed(7))
    norm = model.anatomy.final_norm
    centred = states - states.mean(-1, keepdim=True) if hasattr(norm, "bias") and norm.bias is not None else states
    unit = centred / centred.square().mean(-1, keepdim=True).sqrt()
    bias = 0 if getattr(norm, "bias", None) is None else norm.bias.detach()
    with torch.no_grad():
        close(norm(states), unit * norm_weight(model) + bias, 1e-4)
