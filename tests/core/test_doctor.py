"""What the doctor reports; tests/parity proves it right on every family and on wrong rows."""

from __future__ import annotations

import math

import pytest
import torch

import pico
from shammie.core.batch import pad
from shammie.core.doctor import check, relative_gap
from shammie.core.model import LanguageModel


def test_findings_speak_of_the_model() -> None:
    findings = {found.name: found for found in check(pico.shared("gemma2"))}
    assert "with soft cap 3 gives" in findings["logits"].detail
    assert "token vectors enter the stream" in findings["embedding"].detail
    assert "learned positions" in {f.name: f for f in check(pico.shared("opt"))}["embedding"].detail
    assert all(found.error <= found.bound for found in findings.values())


def test_a_gap_is_relative_and_never_hidden() -> None:
    left, right = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert relative_gap(left, right) == pytest.approx(0.5 / float(right.square().mean().sqrt()))
    assert relative_gap(1e6 * left, 1e6 * right) == pytest.approx(relative_gap(left, right))
    assert relative_gap(left, left) == relative_gap(torch.zeros(2), torch.zeros(2)) == 0
    for wrong in (math.nan, math.inf):
        assert relative_gap(torch.tensor([wrong, 1.0]), torch.ones(2)) == math.inf
        assert relative_gap(torch.ones(2), torch.tensor([1.0, wrong])) == math.inf
    assert max(0.0, relative_gap(torch.tensor([math.nan]), torch.ones(1))) == math.inf


def test_misfits_are_a_finding() -> None:
    from dataclasses import replace

    model = pico.build("gpt2")
    model.anatomy.family = replace(model.anatomy.family, transposed=False)
    last = check(model)[-1]
    assert (last.name, last.ok, last.error) == ("shapes", False, math.inf)
    assert "does not fit together (mat1 and mat2" in last.detail


def test_half_precision_is_judged_by_the_typical_token() -> None:
    """Rounding sends single tokens to another expert when they come one by one; that is no wrong row."""
    for seed in range(3):
        findings = check(pico.build("mixtral", dtype=torch.bfloat16, seed=seed))
        assert all(found.ok for found in findings), findings


def test_half_precision_still_fails_a_cache_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from shammie.core import doctor

    real = doctor.read

    def shifted(model: LanguageModel, past: object, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        return real(model, past, ids.roll(1, -1) if ids.shape[1] > 2 else ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(doctor, "read", shifted)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        failed = [found.name for found in check(pico.build("llama", dtype=dtype)) if not found.ok]
        assert failed == ["cache"]


def test_it_leaves_the_model_as_it_was() -> None:
    model = pico.shared("llama")
    ids = pad([[5, 6, 7]]).inputs()
    with torch.no_grad():
        before = model.module(**ids).logits
        check(model)
        assert torch.equal(model.module(**ids).logits, before)
    assert model.edits_in_force == 0
