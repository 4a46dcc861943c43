"""Kinds of parameters keep what they know, and fold a normalisation as they should.

Shapes: B tokens in a batch, D dimensions of an input, E of a target, F latents.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from sae.architecture import Initializer
from sae.codes import as_codes
from sae.components.linear import DecoderLinear, EncoderLinear, SkipLinear
from sae.components.parameters import (
    DataBias,
    DecoderRows,
    EncoderRows,
    FeatureParameter,
    InputBias,
    LatentBias,
    LatentScale,
    LatentThreshold,
    SAEParameter,
    SkipMatrix,
    TiedRows,
)
from sae.core import ops

B, D, E, F = 4, 3, 2, 5
KINDS = [EncoderRows, DecoderRows, TiedRows, LatentBias, LatentScale, LatentThreshold, DataBias, InputBias, SkipMatrix]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHIFT_D, SCALE_D, SHIFT_E, SCALE_E = random(D), random(D, seed=1).exp(), random(E, seed=2), random(E, seed=3).exp()
X_BD = random(B, D, seed=4)
NORMALISED_BD = (X_BD - SHIFT_D) * SCALE_D


def fold(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        assert isinstance(parameter, SAEParameter)
        parameter.fold_(SHIFT_D, SCALE_D, SHIFT_E, SCALE_E)


@pytest.mark.parametrize("kind", KINDS)
def test_kind_rate_and_reset_value_survive_copies_and_conversions(kind: type[SAEParameter]) -> None:
    features = {"reset_value": 0.25} if issubclass(kind, FeatureParameter) else {}
    module = torch.nn.Module()
    module.p = kind(torch.ones(2, 3), lr_multiplier=3.0, **features)
    for twin in (copy.deepcopy(module), copy.deepcopy(module).double(), module.to("cpu")):
        assert type(twin.p) is kind
        assert twin.p.lr_multiplier == 3.0  # type: ignore[union-attr]
        assert getattr(twin.p, "reset_value", None) == features.get("reset_value")
    frozen = copy.deepcopy(kind(torch.ones(1), requires_grad=False))
    assert not frozen.requires_grad


def test_one_parameter_in_two_places_stays_one_in_a_copy() -> None:
    rows = TiedRows(torch.ones(F, D))
    pair = torch.nn.ModuleList([EncoderLinear(rows, None), DecoderLinear(rows, None)])
    twin = copy.deepcopy(pair)
    assert twin[0].weight is twin[1].weight
    assert twin[0].weight is not rows


def test_defaults() -> None:
    bias = LatentBias(torch.zeros(F))
    assert (bias.lr_multiplier, bias.reset_value) == (1.0, 0.0)
    threshold = Initializer(D, F).latent_threshold(-2.0, lr_multiplier=0.1)
    assert (threshold.lr_multiplier, threshold.reset_value, threshold.tolist()) == (0.1, -2.0, [-2.0] * F)
    assert Initializer(D, F).latent_bias(0.5).reset_value == 0.5


def test_encoder_folds_but_for_a_constant() -> None:
    encoder = EncoderLinear(random(F, D), random(F))
    before = encoder(NORMALISED_BD)
    fold(encoder)
    off = before - encoder(X_BD)
    torch.testing.assert_close(off, off[:1].expand_as(off))


@pytest.mark.parametrize("kind", ["decoder", "data bias"])
def test_what_lies_in_the_space_of_the_targets_folds(kind: str) -> None:
    decoder = DecoderLinear(random(F, E), random(E) if kind == "data bias" else None)
    codes = as_codes(random(B, F))
    expected = decoder(codes) / SCALE_E + (SHIFT_E if kind == "data bias" else 0)
    fold(decoder)
    torch.testing.assert_close(decoder(codes), expected)


def test_bias_of_the_inputs_and_skip_fold() -> None:
    centre, skip = ops.Sub(InputBias(random(D))), SkipLinear(random(E, D))
    expected_centred, expected_skip = centre(NORMALISED_BD) / SCALE_D, skip(X_BD * SCALE_D) / SCALE_E
    fold(centre)
    fold(skip)
    torch.testing.assert_close(centre(X_BD), expected_centred)
    torch.testing.assert_close(skip(X_BD), expected_skip)


def test_tied_rows_fold_into_the_scales_beside_them() -> None:
    rows = TiedRows(random(F, D))
    encoder, decoder, codes = EncoderLinear(rows, None), DecoderLinear(rows, None), as_codes(random(B, F))
    expected_codes, expected = encoder(X_BD * SCALE_D), decoder(codes) / SCALE_D
    for module in (encoder, decoder):
        for parameter in module.parameters():
            parameter.fold_(SHIFT_D, SCALE_D, SHIFT_D, SCALE_D)  # type: ignore[operator]
    torch.testing.assert_close(encoder(X_BD), expected_codes)
    torch.testing.assert_close(decoder(codes), expected)


@pytest.mark.parametrize("kind", [LatentBias, LatentScale, LatentThreshold])
def test_what_lies_among_the_latents_stays(kind: type[SAEParameter]) -> None:
    parameter = kind(random(F))
    parameter.fold_(SHIFT_D, SCALE_D, SHIFT_E, SCALE_E)
    assert torch.equal(parameter.detach(), random(F))


def test_only_parameters_with_a_row_for_each_latent_are_feature_parameters() -> None:
    assert [kind for kind in KINDS if not issubclass(kind, FeatureParameter)] == [DataBias, InputBias, SkipMatrix]
