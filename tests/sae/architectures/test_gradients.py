"""Loss and gradients of every architecture that ships, against both written out by hand in float64 NumPy.

TopK, vanilla and the seed's gated SAE have theirs beside their own tests. Shapes: B tokens in a batch, D dimensions of an
input, E of a target, F latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sae.architecture import Architecture
from sae.architectures.anthropic import AnthropicConfig, AnthropicSAE
from sae.architectures.batchtopk import BatchTopKConfig, BatchTopKSAE
from sae.architectures.crosscoder import Crosscoder, CrosscoderConfig
from sae.architectures.gated import GatedConfig, GatedSAE
from sae.architectures.jumprelu import JumpReLUConfig, JumpReLUSAE
from sae.architectures.matryoshka import MatryoshkaConfig, MatryoshkaSAE
from sae.architectures.p_anneal import PAnnealConfig, PAnnealSAE
from sae.architectures.prolu import ProLUConfig, ProLUSAE
from sae.architectures.transcoder import SkipTranscoder, Transcoder, TranscoderConfig
from sae.core import Cache
from tests.sae.architecture.test_gradients import array, randomised

B, D, E, F, K = 7, 5, 4, 12, 2.5
C = 0.3  # the sparsity coefficient
Array = NDArray[np.float64]
PRE_BIAS = pytest.mark.parametrize("pre_bias", [False, True])


@dataclass
class Step:
    """One loss and its backward pass in our code, with all arrays that a reference needs."""

    architecture: Architecture[Any]
    value: float
    x: Array
    y: Array
    pre_bias: bool = False

    def __post_init__(self) -> None:
        encoder, decoder = self.architecture.init._encoder.raw, self.architecture.init._decoder.raw
        self.encoder, self.decoder = encoder, decoder
        self.W, self.dec, self.c = array(encoder.weight), array(decoder.weight), array(decoder.bias)
        self.b = np.zeros(F) if encoder.bias is None else array(encoder.bias)
        self.centred = self.x - self.c if self.pre_bias else self.x
        self.pre = self.centred @ self.W.T + self.b

    def out(self, z: Array) -> tuple[float, Array]:
        """The L2 loss of decoding z, and its gradient to the reconstruction."""
        residual = z @ self.dec + self.c - self.y
        return float((residual**2).mean()), 2 * residual / residual.size

    def check(self, value: float, d_pre: Array, d_out: Array, d_dec: Array, **others: tuple[Any, Array]) -> None:
        """Compare with our code's, given the gradients to pre-activations, reconstruction and decoder rows."""
        assert self.value == pytest.approx(value, rel=1e-12)
        expected = {
            "decoder rows": (self.decoder.weight, d_dec),
            "decoder bias": (self.decoder.bias, d_out.sum(0) - (self.pre_bias * (d_pre @ self.W).sum(0) if self.pre_bias else 0)),
            "encoder rows": (self.encoder.weight, d_pre.T @ self.centred),
            **others,
        }
        if self.encoder.bias is not None:
            expected["encoder bias"] = (self.encoder.bias, d_pre.sum(0))
        for name, (parameter, gradient) in expected.items():
            np.testing.assert_allclose(array(parameter.grad), gradient, rtol=1e-9, atol=1e-13, err_msg=name)
        assert sum(1 for _ in self.architecture.trainable.parameters()) == len(expected)


def step(architecture: Architecture[Any], *, pre_bias: bool = False, cache: Cache | None = None) -> Step:
    trainable = randomised(architecture)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(B, architecture.d_in, generator=generator, dtype=torch.float64)
    y = torch.randn(B, architecture.d_out, generator=generator, dtype=torch.float64) if architecture.d_out == E else x
    loss = trainable.loss(x, y, {"sparsity_loss": C}, cache or Cache())
    loss.backward()
    return Step(architecture, loss.item(), array(x), array(y), pre_bias)


def largest(pre: Array, count: int) -> Array:
    """Mask of the `count` largest entries of the whole matrix."""
    mask = np.zeros(pre.size, dtype=bool)
    mask[np.argsort(-pre.ravel())[:count]] = True
    return mask.reshape(pre.shape)


@PRE_BIAS
def test_batchtopk(pre_bias: bool) -> None:
    s = step(BatchTopKSAE(BatchTopKConfig(pre_bias=pre_bias), d_in=D, d_sae=F, l0_target=K), pre_bias=pre_bias)
    kept = largest(s.pre, round(B * K)) & (s.pre > 0)
    z = s.pre * kept
    value, d_out = s.out(z)
    s.check(value, (d_out @ s.dec.T) * kept, d_out, z.T @ d_out)


@PRE_BIAS
def test_matryoshka(pre_bias: bool) -> None:
    config = MatryoshkaConfig(prefixes=(0.25, 0.5, 1.0), pre_bias=pre_bias)
    s = step(MatryoshkaSAE(config, d_in=D, d_sae=F, l0_target=K), pre_bias=pre_bias)
    kept = largest(s.pre, round(B * K)) & (s.pre > 0)
    value, d_pre, d_out, d_dec = 0.0, np.zeros((B, F)), np.zeros((B, D)), np.zeros((F, D))
    for prefix in (3, 6, 12):
        z = s.pre * kept * (np.arange(F) < prefix)
        part, d_part = s.out(z)
        value, d_out, d_dec = value + part / 3, d_out + d_part / 3, d_dec + z.T @ d_part / 3
        d_pre += (d_part @ s.dec.T) * (np.arange(F) < prefix) * kept / 3
    s.check(value, d_pre, d_out, d_dec)


@pytest.mark.parametrize("penalty", ["l0", "quadratic"])
@pytest.mark.parametrize("bandwidth", [0.3, 2.0])
@PRE_BIAS
def test_jumprelu(penalty: Any, bandwidth: float, pre_bias: bool) -> None:
    config = JumpReLUConfig(penalty=penalty, bandwidth=bandwidth, quadratic_weight=1.7, pre_bias=pre_bias)
    s = step(JumpReLUSAE(config, d_in=D, d_sae=F, l0_target=K), pre_bias=pre_bias)
    log_threshold = s.architecture.core_model.encoder["nonlinearity"].log_threshold
    theta = np.exp(array(log_threshold))
    kernel = (np.abs((s.pre - theta) / bandwidth) < 0.5).astype(float)
    assert kernel.any()
    active = s.pre > theta
    z, l0 = s.pre * active, active.sum() / B
    l2, d_out = s.out(z)
    # Rajamanoharan et al. 2024, equations 11 and 12.
    weight = C if penalty == "l0" else 1.7 * 2 * (l0 / K - 1) / K
    value = l2 + (C * l0 if penalty == "l0" else 1.7 * (l0 / K - 1) ** 2)
    d_z = d_out @ s.dec.T
    d_theta = (d_z * -(theta / bandwidth) * kernel).sum(0) + weight / B * (-(1 / bandwidth) * kernel).sum(0)
    s.check(value, d_z * active, d_out, z.T @ d_out, threshold=(log_threshold, d_theta * theta))


@PRE_BIAS
def test_anthropic(pre_bias: bool) -> None:
    s = step(AnthropicSAE(AnthropicConfig(pre_bias=pre_bias), d_in=D, d_sae=F), pre_bias=pre_bias)
    z, norms = np.maximum(s.pre, 0), np.linalg.norm(s.dec, axis=1)
    l2, d_out = s.out(z)
    d_dec = z.T @ d_out + C * (z.sum(0) / B)[:, None] * s.dec / norms[:, None]
    s.check(l2 + C * (z * norms).sum() / B, (d_out @ s.dec.T + C * norms / B) * (s.pre > 0), d_out, d_dec)


@PRE_BIAS
def test_gated(pre_bias: bool) -> None:
    architecture = GatedSAE(GatedConfig(pre_bias=pre_bias), d_in=D, d_sae=F)
    s = step(architecture, pre_bias=pre_bias)
    scale = architecture.magnitude["scaled"]["exp_r"].module
    bias_mag, bias_gate = architecture.magnitude["bias"].bias, architecture.gate["bias"].bias
    r, b_mag, b_gate = array(scale), array(bias_mag), array(bias_gate)
    pre_mag, pre_gate = s.pre * np.exp(r) + b_mag, s.pre + b_gate
    gate, open_ = np.maximum(pre_gate, 0), pre_gate > 0
    z = np.maximum(pre_mag, 0) * open_
    (l2, d_out), (l2_aux, d_aux) = s.out(z), s.out(gate)
    d_mag = (d_out @ s.dec.T) * open_ * (pre_mag > 0)
    d_gate = (d_aux @ s.dec.T + C / B) * open_  # through the frozen decoder to the gate, and no further
    s.check(
        l2 + l2_aux + C * gate.sum() / B,
        d_mag * np.exp(r) + d_gate,
        d_out,
        z.T @ d_out,
        r=(scale, (d_mag * s.pre * np.exp(r)).sum(0)),
        magnitude=(bias_mag, d_mag.sum(0)),
        gate=(bias_gate, d_gate.sum(0)),
    )


@pytest.mark.parametrize("gradient", ["relu", "ste"])
@PRE_BIAS
def test_prolu(gradient: Any, pre_bias: bool) -> None:
    s = step(ProLUSAE(ProLUConfig(gradient=gradient, pre_bias=pre_bias), d_in=D, d_sae=F), pre_bias=pre_bias)
    bias = s.architecture.core_model.encoder["nonlinearity"].bias
    gate = (s.pre > 0) & (s.pre + array(bias) > 0)
    z = s.pre * gate
    l2, d_out = s.out(z)
    d_z = d_out @ s.dec.T + C / B
    d_bias = d_z * gate * (1 if gradient == "relu" else s.pre)
    d_pre = d_z * gate + (0 if gradient == "relu" else d_bias)
    s.check(l2 + C * z.sum() / B, d_pre, d_out, z.T @ d_out, bias=(bias, d_bias.sum(0)))


@pytest.mark.parametrize(("at", "p"), [(0, 1.0), (50, 0.6), (99, 0.2)])
@PRE_BIAS
def test_p_anneal(at: int, p: float, pre_bias: bool) -> None:
    config = PAnnealConfig(
        start=0.0, end=0.75, changes=2, pre_bias=pre_bias
    )  # p is 1, 0.6, 0.2 from shares 0, 0.375 and 0.75 of the run on
    s = step(PAnnealSAE(config, d_in=D, d_sae=F), pre_bias=pre_bias, cache=Cache(at, 100))
    z = np.maximum(s.pre, 0)
    l2, d_out = s.out(z)
    active = z > 0
    slope = p * np.where(active, z, 1) ** (p - 1) * active
    s.check(l2 + C * (z[active] ** p).sum() / B, (d_out @ s.dec.T + C / B * slope) * active, d_out, z.T @ d_out)


@pytest.mark.parametrize("nonlinearity", ["topk", "relu"])
@pytest.mark.parametrize("skip", [False, True])
def test_transcoders(nonlinearity: Any, skip: bool) -> None:
    cls = SkipTranscoder if skip else Transcoder
    s = step(cls(TranscoderConfig(nonlinearity=nonlinearity), d_in=D, d_sae=F, d_out=E, l0_target=2))
    others = {}
    if skip:
        matrix = s.architecture.core_model.skip.weight
        s.y = s.y - s.x @ array(matrix).T
    kept = s.pre > 0
    if nonlinearity == "topk":
        kept &= np.argsort(np.argsort(-s.pre, axis=1), axis=1) < 2
    z = s.pre * kept
    l2, d_out = s.out(z)
    penalty = C if nonlinearity == "relu" else 0.0
    if skip:
        others["skip"] = (matrix, d_out.T @ s.x)
    s.check(l2 + penalty * z.sum() / B, (d_out @ s.dec.T + penalty / B) * kept, d_out, z.T @ d_out, **others)


@pytest.mark.parametrize("nonlinearity", ["relu", "batchtopk"])
def test_crosscoder(nonlinearity: Any) -> None:
    widths = [2, 3]
    s = step(Crosscoder(CrosscoderConfig(nonlinearity=nonlinearity), d_in=D, d_sae=F, widths=widths, l0_target=K))
    kept = s.pre > 0
    if nonlinearity == "batchtopk":
        kept &= largest(s.pre, round(B * K))
    z = s.pre * kept
    l2, d_out = s.out(z)
    parts = np.split(s.dec, [2], axis=1)
    norms = [np.linalg.norm(part, axis=1) for part in parts]
    units = np.concatenate([part / norm[:, None] for part, norm in zip(parts, norms, strict=True)], axis=1)
    penalty, weights = (C, sum(norms)) if nonlinearity == "relu" else (0.0, np.zeros(F))
    s.check(
        l2 + penalty * (z * weights).sum() / B,
        (d_out @ s.dec.T + penalty * weights / B) * kept,
        d_out,
        z.T @ d_out + penalty * (z.sum(0) / B)[:, None] * units,
    )
