"""Small operations, against the arithmetic that they stand for."""

from __future__ import annotations

import torch
from torch import nn

from sae.core import Lambda, ops

X = torch.tensor([[1.0, -2.0, 0.0], [0.5, 3.0, -1.0]])
BIAS = torch.tensor([1.0, 2.0, 3.0])


def test_identity_returns_the_very_input() -> None:
    assert ops.Identity()(X) is X


def test_add_and_sub_train_their_parameter_with_opposite_signs() -> None:
    parameter = nn.Parameter(BIAS.clone())
    assert torch.equal(ops.Add(parameter)(X), X + BIAS)
    assert torch.equal(ops.Sub(parameter)(X), X - BIAS)
    (3 * ops.Add(parameter)(X) + ops.Sub(parameter)(X)).sum().backward()
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.full((3,), 2.0 * (3 - 1)))


def test_thresh_is_one_above_zero_only_and_passes_no_gradient() -> None:
    x = X.clone().requires_grad_()
    gate = ops.Thresh(Lambda(lambda v: 2 * v))(x)
    assert torch.equal(gate, torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
    assert not gate.requires_grad
    assert gate.dtype == x.dtype


def test_parallel_sums_and_products_take_any_number_of_branches() -> None:
    parameter = nn.Parameter(BIAS.clone())
    branches = {"a": ops.Identity(), "b": Lambda(torch.exp), "c": parameter}
    torch.testing.assert_close(ops.AddParallel(**branches)(X), X + X.exp() + BIAS)
    torch.testing.assert_close(ops.MulParallel(**branches)(X), X * X.exp() * BIAS)
