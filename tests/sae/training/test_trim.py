"""The last touch on L0: right, small, and only where there is something to touch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.architecture import SAE, Architecture, model_prop
from sae.architectures.jumprelu import JumpReLUSAE
from sae.architectures.topk import TopKSAE
from sae.architectures.vanilla import VanillaSAE
from sae.components import LearntThreshold
from sae.config import SweepableConfig
from sae.core import Cache, Module
from sae.training.trim import trim


def untrained(cls: type[Architecture[Any]]) -> tuple[Architecture[Any], list[Tensor]]:
    """An architecture, and rows on which about half of its latents, or a few of a JumpReLU's, are active."""
    architecture = cls(d_in=16, d_sae=64, l0_target=4)
    architecture.trainable.eval()
    return architecture, list((4 * torch.randn(4096, 16, generator=torch.Generator().manual_seed(0))).split(1024))


def mean_l0(architecture: Architecture[Any], batches: list[Tensor]) -> float:
    with torch.no_grad():
        return float((architecture.core_model.encode(torch.cat(batches)).dense() != 0).sum(1).float().mean())


@pytest.mark.parametrize("factor", [0.85, 0.97, 1.05, 1.4])
@pytest.mark.parametrize("cls", [VanillaSAE, JumpReLUSAE])
def test_l0_comes_to_the_target_by_one_common_shift(cls: type[Architecture[Any]], factor: float) -> None:
    architecture, batches = untrained(cls)
    target = factor * mean_l0(architecture, batches)
    before = {name: p.detach().clone() for name, p in architecture.core_model.named_parameters()}
    shift = trim(architecture.core_model, batches, target)
    assert mean_l0(architecture, batches) == pytest.approx(target, rel=2e-3)
    assert math.copysign(1, shift) == math.copysign(1, factor - 1)
    for name, parameter in architecture.core_model.named_parameters():
        moved = (parameter.detach() - before[name]).flatten()
        assert not moved.any() or torch.allclose(moved, moved[0].expand_as(moved), atol=1e-6), name


@pytest.mark.parametrize("factor", [0.7, 2.1])
@pytest.mark.parametrize("cls", [VanillaSAE, JumpReLUSAE])
def test_what_is_too_far_off_stays_as_it_is(cls: type[Architecture[Any]], factor: float) -> None:
    architecture, batches = untrained(cls)
    l0 = mean_l0(architecture, batches)
    assert trim(architecture.core_model, batches, factor * l0) == 0.0
    assert mean_l0(architecture, batches) == l0


def test_what_no_shift_can_reach_stays_as_it_is() -> None:
    architecture, batches = untrained(JumpReLUSAE)
    before = [p.detach().clone() for p in architecture.core_model.parameters()]
    l0 = mean_l0(architecture, batches)
    assert 32 / l0 < 1.9  # with all thresholds at zero, half of the 64 latents are active
    assert trim(architecture.core_model, batches, 1.9 * l0) == 0.0
    assert all(torch.equal(p, b) for p, b in zip(architecture.core_model.parameters(), before, strict=True))


def test_a_model_at_its_target_is_not_touched() -> None:
    architecture, batches = untrained(TopKSAE)
    assert trim(architecture.core_model, batches, 4.0) == 0.0


def test_a_learnt_threshold_of_anyones_nonlinearity_is_moved() -> None:
    class Kept(Module):  # not one of ours
        def __init__(self) -> None:
            super().__init__()
            self.mine = LearntThreshold()

        def forward(self, preacts_BF: Tensor, *, cache: Cache) -> Tensor:
            return preacts_BF * (preacts_BF > self.mine.value)

    class Own(Architecture[SweepableConfig]):
        @model_prop
        def model(self) -> SAE:
            return SAE(encoder_pre=self.init.encoder, nonlinearity=Kept(), decoder=self.init.decoder)

    architecture, batches = untrained(Own)
    nonlinearity = architecture.core_model.encoder["nonlinearity"]
    nonlinearity.mine.sum.fill_(1.0)
    nonlinearity.mine.weight.fill_(1.0)
    target = 0.9 * mean_l0(architecture, batches)
    assert trim(architecture.core_model, batches, target) < 0
    assert mean_l0(architecture, batches) == pytest.approx(target, rel=2e-3)
    assert float(nonlinearity.mine.value) > 1
