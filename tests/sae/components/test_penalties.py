"""Penalties against their formulas, on dense and on sparse codes.

Shapes: B tokens in a batch, F latents, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.codes import Codes, DenseCodes, SparseCodes
from sae.components import AnnealedPenalty, DecoderNormPenalty
from sae.components.linear import DecoderLinear
from sae.core import Cache

B, F, D = 6, 8, 5
CODES_BF = (torch.randn(B, F, generator=torch.Generator().manual_seed(0)) - 0.3).relu()
ROWS_FD = torch.randn(F, D, generator=torch.Generator().manual_seed(1))
KINDS = pytest.mark.parametrize("make", [DenseCodes, SparseCodes.from_dense])


@KINDS
@pytest.mark.parametrize("widths", [[5], [2, 3], [1, 1, 3]])
def test_decoder_norms_weigh_the_codes_hook_point_by_hook_point(make: Callable[[Tensor], Codes], widths: list[int]) -> None:
    decoder, cache = DecoderLinear(ROWS_FD.clone(), None), Cache()
    codes = make(CODES_BF)
    penalty = DecoderNormPenalty(decoder, widths)
    assert penalty(codes, cache=cache) is codes
    assert list(penalty.parameters()) == []
    parts = np.split(ROWS_FD.numpy().astype(np.float64), np.cumsum(widths)[:-1], axis=1)
    norms = sum(np.linalg.norm(part, axis=1) for part in parts)
    assert float(cache.read("sparsity_penalty").detach()) == pytest.approx(float((CODES_BF.numpy() * norms).sum() / B), rel=1e-5)
    cache.read("sparsity_penalty").backward()
    assert decoder.weight.grad is not None
    assert decoder.weight.grad.any()


@pytest.mark.parametrize(
    ("progress", "p"), [(0, 1), (0.29, 1), (0.3, 0.8), (0.39, 0.8), (0.4, 0.6), (0.5, 0.4), (0.59, 0.4), (0.6, 0.2), (1, 0.2)]
)
def test_exponent_falls_in_equal_steps(progress: float, p: float) -> None:
    assert AnnealedPenalty(0.2, start=0.2, end=0.6, changes=4).exponent(progress) == pytest.approx(p)


def penalties(penalty: AnnealedPenalty, steps: int, first: int = 0) -> list[float]:
    out = []
    for step in range(first, steps):
        cache = Cache(step, steps)
        penalty(DenseCodes(CODES_BF), cache=cache)
        out.append(float(cache.read("sparsity_penalty")))
    return out


def test_strength_does_not_jump_when_the_exponent_does() -> None:
    """On the same codes the penalty stays what the L1 penalty was, though its exponent falls."""
    penalty = AnnealedPenalty(0.2, start=0.1, end=0.8, changes=7)
    assert penalties(penalty, 100) == pytest.approx([float(CODES_BF.sum() / B)] * 100, rel=1e-5)
    ratio = float(CODES_BF.sum() / (CODES_BF[CODES_BF > 0] ** 0.2).sum())
    assert float(penalty.scale) == pytest.approx(ratio, rel=1e-5)


def test_scale_is_a_state_that_a_resumed_run_goes_on_from() -> None:
    whole, first, second = (AnnealedPenalty(0.2, start=0.0, end=1.0, changes=10) for _ in range(3))
    expected = penalties(whole, 100)
    for step in range(55):
        first(DenseCodes(CODES_BF), cache=Cache(step, 100))
    second.scale.copy_(dict(first.named_buffers())["scale"])
    assert penalties(second, 100, first=55) == expected[55:]
    assert "scale" not in first.state_dict()  # and no part of a saved model


def test_in_use_nothing_moves() -> None:
    penalty = AnnealedPenalty(0.2, start=0.0, end=1.0, changes=10).eval()
    penalties(penalty, 20)
    assert float(penalty.scale) == 1


def test_silence_leaves_the_scale_as_it_is() -> None:
    penalty = AnnealedPenalty(0.2, start=0.0, end=1.0, changes=10)
    for step in range(20):
        penalty(DenseCodes(torch.zeros(B, F)), cache=Cache(step, 20))
    assert float(penalty.scale) == 1
