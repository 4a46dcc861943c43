"""Averaged weights, against the recursion written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sae.components.parameters import FeatureParameter, LatentBias
from sae.training.averaging import WeightAverage


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_average_is_the_recursion_with_a_fast_start(decay: float) -> None:
    module = nn.Linear(3, 2)
    average = WeightAverage(module, decay)
    expected = module.weight.detach().double().clone()
    stream = torch.Generator().manual_seed(0)
    for step in range(40):
        with torch.no_grad():
            module.weight.copy_(torch.randn(2, 3, generator=stream))
        average.update(step)
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * module.weight.detach().double()
    torch.testing.assert_close(average.weights["weight"].double(), expected, rtol=1e-5, atol=1e-6)
    average.take()
    assert torch.equal(module.weight.detach(), average.weights["weight"])


def test_constant_weights_are_their_own_average() -> None:
    module = nn.Linear(3, 2)
    average = WeightAverage(module, 0.9)
    for step in range(10):
        average.update(step)
    assert torch.equal(average.weights["weight"], module.weight.detach())


def test_renewed_rows_are_taken_as_they_are_now_and_no_others() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.other = LatentBias(torch.zeros(4)), nn.Parameter(torch.zeros(4))

    module = Two()
    average = WeightAverage(module, 0.9)
    with torch.no_grad():
        module.rows.fill_(5.0)
        module.other.fill_(5.0)
    average.forget(torch.tensor([True, False, False, True]), FeatureParameter)
    assert average.weights["rows"].tolist() == [5, 0, 0, 5]
    assert average.weights["other"].tolist() == [0, 0, 0, 0]
    average.begin()
    assert average.weights["other"].tolist() == [5, 5, 5, 5]
