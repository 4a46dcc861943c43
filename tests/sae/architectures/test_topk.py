"""The TopK SAE: k from the target, and gradients against those written out by hand in float64.

Shapes: B tokens in a batch, D dimensions, F latents.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae.architecture import load, save
from sae.architecture.normalizer import Normalizer
from sae.architectures.topk import TopKConfig, TopKSAE
from sae.config import InputError
from sae.core import Cache

B, D, F, K = 7, 5, 11, 3


@pytest.mark.parametrize("pre_bias", [False, True])
def test_loss_and_gradients(pre_bias: bool) -> None:
    architecture = TopKSAE(TopKConfig(pre_bias=pre_bias), d_in=D, d_sae=F, l0_target=K)
    trainable, generator = architecture.trainable.double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x_BD = torch.randn(B, D, generator=generator, dtype=torch.float64)
    loss = trainable.loss(x_BD, x_BD, {}, Cache())
    loss.backward()

    encoder, decoder = architecture.init._encoder.raw, architecture.init._decoder.raw
    W, b, dec, c, x = (t.detach().numpy() for t in (encoder.weight, encoder.bias, decoder.weight, decoder.bias, x_BD))
    centred = x - pre_bias * c
    pre = centred @ W.T + b
    kept = ((-pre).argsort(1).argsort(1) < K) & (pre > 0)
    residual = (pre * kept) @ dec + c - x
    assert loss.item() == pytest.approx((residual**2).mean(), rel=1e-12)
    d_out = 2 * residual / (B * D)
    d_pre = (d_out @ dec.T) * kept
    for parameter, expected in (
        (decoder.weight, (pre * kept).T @ d_out),
        (decoder.bias, d_out.sum(0) - pre_bias * (d_pre @ W).sum(0)),
        (encoder.weight, d_pre.T @ centred),
        (encoder.bias, d_pre.sum(0)),
    ):
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("target", [None, 0.5, 0])
def test_without_a_target_there_is_no_k(target: float | None) -> None:
    with pytest.raises(InputError, match=r"train\.l0_target: TopK takes its k from here"):
        _ = TopKSAE(d_in=D, d_sae=F, l0_target=target).trainable


def test_saved_one_keeps_its_k(tmp_path: Path) -> None:
    architecture = TopKSAE(d_in=D, d_sae=F, l0_target=K)
    x_BD = torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    normalizer = Normalizer("affine", [D])
    normalizer.scale_D.fill_(4.0)
    normalizer.scale_E.fill_(4.0)
    save(architecture, tmp_path, hook_points=["x"], lineage={}, normalizer=normalizer)
    sae = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(sae.encode(x_BD).dense(), architecture.core_model.encode(4 * x_BD).dense())
        torch.testing.assert_close(sae(x_BD), architecture.core_model(4 * x_BD) / 4)
    assert int(sae.encode(x_BD).l0_per_token().max()) <= K
