"""The wrappers of the dictionary: unit rows after a step, and gradients that do not work against them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sae.components import NormFeatures, OrthogonalizeFeatureGrads, training_hooks
from sae.components.linear import DecoderLinear, EncoderLinear
from sae.config import SaeError
from sae.core import Cache

F, D = 6, 4


def decoder(seed: int = 0) -> DecoderLinear:
    generator = torch.Generator().manual_seed(seed)
    return DecoderLinear(3 * torch.randn(F, D, generator=generator), torch.ones(D))


def test_rows_have_unit_norm_and_their_direction_after_a_step() -> None:
    raw = decoder()
    before_FD = raw.weight.detach().double()
    NormFeatures(raw).post_step(Cache())
    expected_FD = before_FD / before_FD.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(raw.weight.detach().double(), expected_FD, rtol=1e-6, atol=1e-6)


def test_zero_row_stays_zero_and_the_others_are_normalised_all_the_same() -> None:
    raw = decoder()
    with torch.no_grad():
        raw.weight[2] = 0
    NormFeatures(raw).post_step(None)
    norms_F = torch.linalg.vector_norm(raw.weight.detach(), dim=1)
    torch.testing.assert_close(norms_F, torch.ones(F).index_fill(0, torch.tensor(2), 0))
    assert torch.isfinite(raw.weight).all()


def test_normalising_leaves_bias_and_identity_of_the_parameter_alone() -> None:
    raw = decoder()
    weight = raw.weight
    NormFeatures(raw).post_step(None)
    assert raw.weight is weight
    assert torch.equal(raw.bias.detach(), torch.ones(D))  # type: ignore[union-attr]


def test_gradients_lose_exactly_their_part_along_the_row() -> None:
    raw = decoder()
    gradient_FD = torch.randn(F, D, generator=torch.Generator().manual_seed(1))
    raw.weight.grad = gradient_FD.clone()
    OrthogonalizeFeatureGrads(raw).post_backward(Cache())
    d, g = raw.weight.detach().double(), gradient_FD.double()
    unit_FD = d / d.square().sum(1, keepdim=True).sqrt()
    expected_FD = g - (g * unit_FD).sum(1, keepdim=True) * unit_FD
    torch.testing.assert_close(raw.weight.grad.double(), expected_FD, rtol=1e-5, atol=1e-6)
    along_F = (raw.weight.grad * raw.weight.detach()).sum(1)
    torch.testing.assert_close(along_F, torch.zeros(F), rtol=0, atol=1e-5)


def test_gradient_of_a_zero_row_stays_as_it_is() -> None:
    raw = decoder()
    with torch.no_grad():
        raw.weight[0] = 0
    raw.weight.grad = torch.ones(F, D)
    OrthogonalizeFeatureGrads(raw).post_backward(None)
    assert torch.equal(raw.weight.grad[0], torch.ones(D))


def test_no_gradient_is_no_error() -> None:
    raw = decoder()
    OrthogonalizeFeatureGrads(raw).post_backward(None)
    assert raw.weight.grad is None


@pytest.mark.parametrize("wrapper", [NormFeatures, OrthogonalizeFeatureGrads])
def test_what_holds_no_decoder_rows_is_refused(wrapper: type[NormFeatures]) -> None:
    with pytest.raises(SaeError, match=f"{wrapper.__name__} needs decoder rows"):
        wrapper(EncoderLinear(torch.ones(F, D), None))
    with pytest.raises(SaeError, match="Linear"):
        wrapper(nn.Linear(D, F))


def test_wrappers_compute_and_show_what_they_hold() -> None:
    raw = decoder()
    wrapped = OrthogonalizeFeatureGrads(NormFeatures(raw))
    codes_BF = torch.rand(3, F)
    assert torch.equal(wrapped(codes_BF), raw(codes_BF))
    assert wrapped.bias is raw.bias
    assert [id(p) for p in wrapped.parameters()] == [id(p) for p in raw.parameters()]
    with pytest.raises(AttributeError, match="nothing"):
        _ = wrapped.nothing


def test_hooks_are_found_once_each_and_inner_ones_first() -> None:
    raw = decoder()
    inner = NormFeatures(raw)
    outer = OrthogonalizeFeatureGrads(inner)
    assert list(training_hooks(nn.ModuleList([outer, nn.Sequential(inner)]))) == [inner, outer]
