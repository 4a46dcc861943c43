"""Losses and penalties, against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sae.codes import as_codes
from sae.components import CosineDistanceLoss, L0Loss, L0TargetLoss, L1Penalty, L2Loss, Loss, SparsityPenaltyLoss
from sae.config import SaeError
from sae.core import Cache, Lambda, Module

X_BD = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 1.0]])


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x / 2


def test_l2_is_the_mean_over_tokens_and_dimensions() -> None:
    loss = L2Loss(Half())(X_BD, X_BD, cache=Cache())
    assert float(loss) == pytest.approx((np.square(X_BD.numpy() / 2)).sum() / 6)


def test_l2_measures_against_the_target_not_the_input() -> None:
    y_BD = torch.ones_like(X_BD)
    expected = np.square(1 - X_BD.numpy() / 2).mean()
    assert float(L2Loss(Half())(X_BD, y_BD, cache=Cache())) == pytest.approx(expected)


def test_cosine_distance_of_parallel_orthogonal_and_opposite_vectors() -> None:
    x_BD = torch.tensor([[1.0, 0.0]] * 3)
    turned_BD = torch.tensor([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    loss = CosineDistanceLoss(Lambda(lambda x: turned_BD))(x_BD, x_BD, cache=Cache())
    assert float(loss) == pytest.approx(1 - (1 + 0 - 1) / 3)


def test_losses_on_one_model_run_it_once_a_step() -> None:
    model, cache = Half(), Cache()
    for loss in (L2Loss(model), CosineDistanceLoss(model), L2Loss(model)):
        loss(X_BD, X_BD, cache=cache)
    assert model.runs == 1


def test_loss_is_an_interface() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Loss(Half())  # type: ignore[abstract]


class Penalised(Module):
    """A model that hands its input on as codes and punishes them."""

    def __init__(self, *penalties: nn.Module) -> None:
        super().__init__()
        self.penalties = nn.ModuleList(penalties)

    def forward(self, x: Tensor, *, cache: Cache) -> Tensor:
        for i, penalty in enumerate(self.penalties):
            penalty(as_codes(x), cache=cache[f"part{i}"])
        return x


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_l1_penalty_is_the_scaled_sum_over_latents_of_mean_magnitudes(scale: float) -> None:
    cache = Cache()
    codes = as_codes(X_BD)
    assert L1Penalty(scale)(codes, cache=cache) is codes
    expected = scale * np.abs(X_BD.numpy().astype(np.float64)).mean(0).sum()
    assert float(cache.read("sparsity_penalty")) == pytest.approx(expected)


def test_sparsity_loss_is_the_sum_of_what_its_model_recorded() -> None:
    loss = SparsityPenaltyLoss(Penalised(L1Penalty(1.0), L1Penalty(0.5)))
    assert float(loss(X_BD, X_BD, cache=Cache())) == pytest.approx(1.5 * 11 / 3)


def test_sparsity_loss_leaves_other_models_penalties_alone() -> None:
    cache, mine, other = Cache(), Penalised(L1Penalty()), Penalised(L1Penalty(100.0))
    cache.run_once(mine, X_BD, "model")
    cache.run_once(other, X_BD, "aux")
    assert float(SparsityPenaltyLoss(mine)(X_BD, X_BD, cache=cache)) == pytest.approx(11 / 3)


def test_sparsity_loss_of_a_model_without_penalty_is_an_error() -> None:
    with pytest.raises(SaeError, match=r"no penalty.*L1Penalty"):
        SparsityPenaltyLoss(Penalised())(X_BD, X_BD, cache=Cache())


def test_penalty_sends_its_gradient_to_the_codes() -> None:
    x_BD = X_BD.clone().requires_grad_()
    SparsityPenaltyLoss(Penalised(L1Penalty(2.0)))(x_BD, x_BD, cache=Cache()).backward()
    assert x_BD.grad is not None
    torch.testing.assert_close(x_BD.grad, 2 * X_BD.sign() / 3)


class Stepping(Module):
    """A model that records an L0 with a gradient."""

    def forward(self, x: Tensor, *, cache: Cache) -> Tensor:
        cache["encoder"].write("l0_surrogate", x.sum())
        return x


def test_l0_loss_is_what_the_thresholds_learn_from() -> None:
    x_BD = X_BD.clone().requires_grad_()
    loss = L0Loss(Stepping())(x_BD, x_BD, cache=Cache())
    loss.backward()
    assert loss.item() == pytest.approx(3)
    assert x_BD.grad is not None
    assert x_BD.grad.tolist() == [[1, 1]] * 3


@pytest.mark.parametrize(("target", "expected"), [(3.0, 0.0), (2.0, 4 * 0.25), (6.0, 4 * 0.25)])
def test_quadratic_loss_is_zero_at_the_target_alone(target: float, expected: float) -> None:
    assert float(L0TargetLoss(Stepping(), target, weight=4.0)(X_BD, X_BD, cache=Cache())) == pytest.approx(expected, abs=1e-6)


def test_l0_loss_of_a_model_without_thresholds_is_an_error() -> None:
    with pytest.raises(SaeError, match=r"L0 with a gradient.*JumpReLU"):
        L0Loss(Half())(X_BD, X_BD, cache=Cache())
