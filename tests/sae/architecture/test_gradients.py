"""The gradients of the vanilla and the gated SAE, against both written out by hand in float64 NumPy.

Shapes: B tokens in a batch, D dimensions of the activations, F latents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from sae.architectures.vanilla import VanillaConfig, VanillaSAE
from sae.core import Cache
from tests.sae.architecture.test_seed_examples import Gated, GatedConfig

B, D, F = 7, 5, 11
COEFFICIENTS = {"sparsity_loss": 0.3, "L2_loss": 1.7}
Array = NDArray[np.float64]


def array(t: torch.Tensor | None) -> Array:
    assert t is not None
    return t.detach().numpy().copy()


def randomised(architecture: Any) -> Any:
    """The same architecture in float64, with no parameter at a special value such as zero."""
    trainable = architecture.trainable.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return trainable


def batch() -> torch.Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("pre_bias", [False, True])
def test_vanilla_loss_and_gradients(pre_bias: bool) -> None:
    architecture = VanillaSAE(VanillaConfig(pre_bias=pre_bias), d_in=D, d_sae=F)
    trainable, x_BD = randomised(architecture), batch()
    loss = trainable.loss(x_BD, x_BD, COEFFICIENTS, Cache())
    loss.backward()

    encoder, decoder = architecture.init._encoder.raw, architecture.init._decoder.raw
    W, b, dec, c, x = (array(t) for t in (encoder.weight, encoder.bias, decoder.weight, decoder.bias, x_BD))
    centred = x - pre_bias * c
    pre = centred @ W.T + b
    z = np.maximum(pre, 0)
    residual = z @ dec + c - x
    assert loss.item() == pytest.approx(1.7 * (residual**2).mean() + 0.3 * z.sum() / B, rel=1e-12)

    d_out = 1.7 * 2 * residual / (B * D)
    d_pre = (d_out @ dec.T + 0.3 / B) * (pre > 0)
    np.testing.assert_allclose(array(decoder.weight.grad), z.T @ d_out, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(array(decoder.bias.grad), d_out.sum(0) - pre_bias * (d_pre @ W).sum(0), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(array(encoder.weight.grad), d_pre.T @ centred, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(array(encoder.bias.grad), d_pre.sum(0), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("pre_bias", "detach"), [(False, True), (False, False), (True, True), (True, False)])
def test_gated_loss_and_gradients(pre_bias: bool, detach: bool) -> None:
    architecture = Gated(GatedConfig(pre_bias=pre_bias, detach=detach), d_in=D, d_sae=F)
    trainable, x_BD = randomised(architecture), batch()
    coefficients = COEFFICIENTS | {"L2_aux_loss": 0.6}
    loss = trainable.loss(x_BD, x_BD, coefficients, Cache())
    loss.backward()

    encoder, decoder = architecture.init._encoder.raw, architecture.init._decoder.raw
    scale: nn.Parameter = architecture.enc_mag["r_mag"]["exp_r"].module
    bias_mag, bias_gate = architecture.enc_mag["bias"].bias, architecture.enc_gate["bias"].bias
    W, dec, c, x = (array(t) for t in (encoder.weight, decoder.weight, decoder.bias, x_BD))
    r, b_mag, b_gate = (array(t) for t in (scale, bias_mag, bias_gate))
    live = 0.0 if detach else 1.0

    centred = x - pre_bias * c
    inner = centred @ W.T
    pre_mag, pre_gate = inner * np.exp(r) + b_mag, inner + b_gate
    magnitude, gate = np.maximum(pre_mag, 0), np.maximum(pre_gate, 0)
    open_ = (gate > 0).astype(np.float64)
    residual, residual_aux = (magnitude * open_) @ dec + c - x, gate @ dec + c - x
    expected = 1.7 * (residual**2).mean() + 0.6 * (residual_aux**2).mean() + 0.3 * gate.sum() / B
    assert loss.item() == pytest.approx(expected, rel=1e-12)

    d_out, d_aux = 1.7 * 2 * residual / (B * D), 0.6 * 2 * residual_aux / (B * D)
    d_pre_mag = (d_out @ dec.T) * open_ * (pre_mag > 0)
    d_pre_gate = (d_aux @ dec.T + 0.3 / B) * (pre_gate > 0)
    d_inner = d_pre_mag * np.exp(r) + d_pre_gate
    d_centred = (d_pre_mag * np.exp(r)) @ W + live * d_pre_gate @ W
    expected_gradients = {
        "decoder rows": (decoder.weight, (magnitude * open_).T @ d_out + live * gate.T @ d_aux),
        "decoder bias": (decoder.bias, d_out.sum(0) + live * d_aux.sum(0) - pre_bias * d_centred.sum(0)),
        "encoder rows": (encoder.weight, d_inner.T @ centred),
        "r": (scale, (d_pre_mag * inner * np.exp(r)).sum(0)),
        "bias of the magnitude": (bias_mag, d_pre_mag.sum(0)),
        "bias of the gate": (bias_gate, d_pre_gate.sum(0)),
    }
    for name, (parameter, gradient) in expected_gradients.items():
        np.testing.assert_allclose(array(parameter.grad), gradient, rtol=1e-10, atol=1e-14, err_msg=name)
    assert sum(1 for _ in trainable.parameters()) == len(expected_gradients)
