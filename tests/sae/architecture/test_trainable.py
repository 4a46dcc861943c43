"""The weighted sum of losses, and that each model runs once a step however many losses it has."""

from __future__ import annotations

import pytest
import torch

from sae.architecture import Architecture, loss_prop
from sae.architectures.vanilla import VanillaSAE
from sae.components import CosineDistanceLoss, EMAFreqTracker, L2Loss
from sae.core import Cache
from tests.sae.architecture.test_architecture import Plain

X_BD = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class ManyLosses(VanillaSAE):
    @loss_prop
    def again(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def angle(self) -> CosineDistanceLoss:
        return CosineDistanceLoss(self.model)


def test_total_is_the_sum_of_losses_by_their_coefficients_and_one_for_the_rest() -> None:
    trainable, cache = ManyLosses(d_in=4, d_sae=8).trainable, Cache()
    total = trainable.loss(X_BD, X_BD, {"sparsity_loss": 0.25, "angle": 3.0, "again": 0.0}, cache)
    values = {name: float(cache.read(name)) for name in trainable.losses}
    expected = values["L2_loss"] + 0.25 * values["sparsity_loss"] + 3 * values["angle"]
    assert total.item() == pytest.approx(expected, rel=1e-6)


def test_recorded_losses_are_unweighted_and_without_graph() -> None:
    trainable, cache = VanillaSAE(d_in=4, d_sae=8).trainable, Cache()
    trainable.loss(X_BD, X_BD, {"sparsity_loss": 100.0}, cache)
    codes_BF = trainable.model.encode(X_BD).dense()
    assert float(cache.read("sparsity_loss")) == pytest.approx(codes_BF.sum().item() / 6, rel=1e-5)
    assert not cache.read("sparsity_loss").requires_grad


@pytest.mark.parametrize(("cls", "models"), [(ManyLosses, 1), (Plain, 2)])
def test_each_model_runs_once_a_step(cls: type[Architecture], models: int) -> None:  # type: ignore[type-arg]
    trainable, runs = cls(d_in=4, d_sae=8).trainable, []
    for model in (trainable.model, *trainable.aux.values()):
        model.register_forward_hook(lambda module, *_: runs.append(module))
    trainable.loss(X_BD, X_BD, {}, Cache())
    assert len(runs) == len(set(runs)) == models


def test_models_record_in_scopes_of_their_names() -> None:
    cache = Cache()
    Plain(d_in=4, d_sae=8).trainable.loss(X_BD, X_BD, {}, cache)
    paths = set(cache.values())
    assert {"model/l0", "model/codes", "model/encoder/preacts/preacts", "helper/l0", "L2_loss", "angle"} <= paths


def test_losses_measure_against_the_target() -> None:
    trainable, y_BD = VanillaSAE(d_in=4, d_sae=8).trainable, torch.zeros(6, 4)
    cache = Cache()
    trainable.loss(X_BD, y_BD, {}, cache)
    assert float(cache.read("L2_loss")) == pytest.approx(trainable.model(X_BD).square().mean().item(), rel=1e-6)


def test_a_patch_of_the_codes_reaches_loss_and_gradient() -> None:
    trainable, cache = VanillaSAE(d_in=4, d_sae=8).trainable, Cache()
    cache.on_write("model/codes", lambda scope, codes: codes.detach())
    trainable.loss(X_BD, X_BD, {}, cache).backward()
    encoder_gradient = trainable.model.encoder["encoder_pre"]["lin"].weight.grad
    assert encoder_gradient is None or not encoder_gradient.any()
    assert trainable.model.decoder.weight.grad.any()


def test_frequencies_are_tracked_in_training_and_not_by_encode() -> None:
    trainable = VanillaSAE(d_in=4, d_sae=8).trainable
    tracker = next(m for m in trainable.modules() if isinstance(m, EMAFreqTracker))
    trainable.train()
    trainable.model.encode(X_BD)
    assert int(tracker.tokens_since_fired.sum()) == 0
    trainable.loss(X_BD, X_BD, {}, Cache())
    fired_F = (trainable.model.encode(X_BD).dense() != 0).any(0)
    assert torch.equal(tracker.tokens_since_fired, torch.where(fired_F, 0, 6))


def test_encode_then_decode_is_the_forward_pass() -> None:
    model = VanillaSAE(d_in=4, d_sae=8).core_model
    assert torch.equal(model.decode(model.encode(X_BD)), model(X_BD))
    assert torch.equal(model.decode(model.encode(X_BD).dense()), model(X_BD))
