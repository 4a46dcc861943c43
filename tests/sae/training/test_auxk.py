"""AuxK, against Gao et al. 2024, appendix A.2, written out in NumPy in float64.

Shapes: B tokens, D dimensions of the targets, F latents, K dead latents that take part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.architectures.topk import TopKConfig, TopKSAE
from sae.components import EMAFreqTracker, L2Loss
from sae.components.parameters import DecoderRows, EncoderRows
from sae.config import InputError, SaeError, SweepableConfig, parse_config
from sae.core import Cache, Lambda
from sae.training.auxk import auxk_loss
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer
from tests.sae.every_architecture import CASES, Case
from tests.sae.synthetic import SyntheticSource

B, D, F, TOP = 9, 5, 14, 3
DEAD_F = torch.tensor([False, True] * 7)


@pytest.mark.parametrize("k", [1, 3, 7, 20])
def test_value_and_gradients_are_those_written_out(k: int) -> None:
    architecture = TopKSAE(TopKConfig(pre_bias=False), d_in=D, d_sae=F, l0_target=TOP)
    trainable, stream = architecture.trainable.double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=stream, dtype=torch.float64))
    x_BD = torch.randn(B, D, generator=stream, dtype=torch.float64)
    cache = Cache(0, 1)
    trainable.loss(x_BD, x_BD, {}, cache)
    made_BD = cache.run_once(trainable.model, x_BD)
    loss = auxk_loss(trainable.model, x_BD, made_BD, cache["model"], DEAD_F, k)
    loss.backward()  # type: ignore[no-untyped-call]

    encoder, decoder = architecture.init._encoder.raw, architecture.init._decoder.raw
    W, b, dec = (t.detach().numpy() for t in (encoder.weight, encoder.bias, decoder.weight))
    x, dead = x_BD.numpy(), DEAD_F.numpy()
    pre = x @ W.T + b
    error = x - made_BD.detach().numpy()
    ranked = np.where(dead, pre, -np.inf)
    kept = ((-ranked).argsort(1).argsort(1) < k) & dead
    z = np.maximum(pre, 0) * kept
    residual, variance = z @ dec - error, ((error - error.mean(0)) ** 2).sum()
    assert loss.item() == pytest.approx((residual**2).sum() / variance, rel=1e-12)
    d_out = 2 * residual / variance
    d_pre = (d_out @ dec.T) * kept * (pre > 0)
    for parameter, expected in ((decoder.weight, z.T @ d_out), (encoder.weight, d_pre.T @ x), (encoder.bias, d_pre.sum(0))):
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-9, atol=1e-13)
        assert not parameter.grad[~DEAD_F].any()
        assert bool(parameter.grad[DEAD_F].any()) == bool((z > 0).any())
    np.testing.assert_allclose(decoder.bias.grad.numpy(), 0, atol=1e-14)


def step(case: Case) -> tuple[Architecture[Any], Tensor, Cache]:
    architecture = case.build()
    trainable = architecture.trainable.train()
    (x_BD, y_BE), cache = case.source().rows(32), Cache(0, 10)
    trainable.loss(x_BD, y_BE, {}, cache)
    made_BE = cache.run_once(trainable.model, x_BD)
    return architecture, auxk_loss(trainable.model, y_BE, made_BE, cache["model"], torch.arange(24) % 3 == 0, 8), cache


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dead_latents_learn_and_living_ones_do_not_in_every_architecture(case: Case) -> None:
    architecture, loss, _ = step(case)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) > 0
    dead_F = torch.arange(24) % 3 == 0
    found = set()
    for parameter in architecture.core_model.parameters():
        for kind in (EncoderRows, DecoderRows):
            if isinstance(parameter, kind):
                assert parameter.grad is not None
                assert bool(parameter.grad[dead_F].any(1).all()), kind
                assert not parameter.grad[~dead_F].any(), kind
                found.add(kind)
    assert found == {EncoderRows, DecoderRows}
    bias_gradient = architecture.init._decoder.raw.bias.grad
    if (
        bias_gradient is not None and not getattr(architecture.cfg, "pre_bias", False) and "tied" not in case.name
    ):  # there it is the encoder's too
        torch.testing.assert_close(bias_gradient, torch.zeros_like(bias_gradient), atol=1e-6, rtol=0)


def test_model_that_records_no_pre_activations_is_told_so() -> None:
    class Opaque(Architecture[SweepableConfig]):
        @model_prop
        def model(self) -> SAE:
            linear = nn.Linear(self.d_in, self.d_sae)
            nn.init.constant_(linear.bias, -100)
            return SAE(encoder=Lambda(torch.relu, linear), decoder=self.init.decoder)

        @loss_prop
        def L2_loss(self) -> L2Loss:
            return L2Loss(self.model)

    config = parse_config(TrainConfig, {"steps": 2, "batch_size": 16, "dead_latents": "auxk", "dead_window": 1})
    architecture = Opaque(d_in=16, d_sae=32)
    with pytest.raises(SaeError, match=r"train\.dead_latents: AuxK finds no pre-activations"):
        never_fires(architecture, config).train()


def never_fires(architecture: Architecture[Any], config: TrainConfig, dead: int = 8, bias_value: float = -3.0) -> Trainer:
    """A trainer whose architecture has latents that count as dead from the start."""
    trainer = Trainer(architecture, SyntheticSource(), config)
    tracker = next(m for m in trainer.model.modules() if isinstance(m, EMAFreqTracker))
    tracker.tokens_since_fired[:dead] = 10**9
    bias = getattr(architecture.init._encoder.raw, "bias", None)
    if bias is not None and "encoder.bias" in architecture.canonical_tensors():
        with torch.no_grad():
            bias[:dead] = bias_value
    return trainer


def test_loss_of_a_step_is_the_others_plus_the_coefficient_times_it() -> None:
    base = {"steps": 1, "batch_size": 64, "l0_target": 3, "dead_window": 1000}
    curves, optimised = {}, {}
    for name, more in (("none", {}), ("auxk", {"auxk": {"coefficient": 0.5, "k": 2}})):
        config = parse_config(TrainConfig, base | {"dead_latents": name} | more)
        trainer = never_fires(TopKSAE(d_in=16, d_sae=32, l0_target=3), config)
        x_BD, y_BD = trainer._to_model(*next(trainer.source.batches(64, seed=config.seed)))
        optimised[name] = float(trainer._loss(x_BD, y_BD, Cache(0, 1)).detach())
        curves[name] = never_fires(TopKSAE(d_in=16, d_sae=32, l0_target=3), config).train()
    assert curves["auxk"]["auxk_loss"] > 0
    assert optimised["auxk"] == pytest.approx(optimised["none"] + 0.5 * curves["auxk"]["auxk_loss"], rel=1e-6)
    # The curve shows the architecture's losses, whether latents are dead or not.
    assert curves["auxk"]["loss"] == pytest.approx(curves["none"]["loss"], rel=1e-6)
    assert "auxk_loss" not in curves["none"]


def test_auxk_brings_dead_latents_back() -> None:
    base = {"steps": 200, "batch_size": 64, "l0_target": 3, "lr": 1e-2, "dead_window": 1000}
    dead = {}
    for name in ("none", "auxk"):
        config = parse_config(TrainConfig, base | {"dead_latents": name, "auxk": {"coefficient": 1.0, "k": 8}})
        architecture = TopKSAE(TopKConfig(pre_bias=False), d_in=16, d_sae=32, l0_target=3)
        dead[name] = never_fires(architecture, config, bias_value=-1.5).train()["dead_latents"]
    assert dead["none"] >= 6
    assert dead["auxk"] <= 2


def test_without_a_tracker_it_is_refused_by_field() -> None:
    class Untracked(TopKSAE):
        @model_prop
        def model(self) -> SAE:
            made = TopKSAE.model.build(self)
            made.freqs = None
            return made

    config = parse_config(TrainConfig, {"dead_latents": "auxk"})
    with pytest.raises(InputError, match=r"train\.dead_latents: this model tracks no frequencies"):
        Trainer(Untracked(d_in=16, d_sae=32, l0_target=3), SyntheticSource(), config)
