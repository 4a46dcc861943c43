"""Optimizers by name: all train, each takes only what it takes, and rows are forgotten alone."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn

from sae.components.parameters import EncoderRows, LatentBias
from sae.config import InputError, parse_config
from sae.training.optimizers import OptimizerConfig, build_optimizer, reset_rows, set_lr, training_form

NAMES = get_args(OptimizerConfig.model_fields["name"].annotation)
CPU = torch.device("cpu")


class Quadratic(nn.Module):
    """(weight - 1)² + (bias - 1)², with a multiplier on the bias."""

    def __init__(self, multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = EncoderRows(torch.zeros(6, 3))
        self.bias = LatentBias(torch.zeros(6), lr_multiplier=multiplier)

    def loss(self) -> Tensor:
        return (self.weight - 1).square().sum() + (self.bias - 1).square().sum()


def build(name: str, module: nn.Module, lr: float = 0.05, **more: Any) -> torch.optim.Optimizer:
    config = parse_config(OptimizerConfig, {"name": name} | more, "train.optimizer")
    return build_optimizer(config, module, lr, device=CPU)


def steps(module: Quadratic, optimizer: torch.optim.Optimizer, count: int) -> None:
    training_form(optimizer, True)
    for _ in range(count):
        module.loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_trains(name: str) -> None:
    module = Quadratic()
    optimizer = build(name, module, lr=0.5 if name == "adagrad" else 0.05)
    steps(module, optimizer, 120)
    training_form(optimizer, False)
    assert module.loss().item() < 0.05 * 24


TAKEN = {
    "adam": {"betas", "eps", "weight_decay", "amsgrad"},
    "adamw": {"betas", "eps", "weight_decay", "amsgrad"},
    "radam": {"betas", "eps", "weight_decay"},
    "nadam": {"betas", "eps", "weight_decay"},
    "adamax": {"betas", "eps", "weight_decay"},
    "adagrad": {"eps", "weight_decay"},
    "rmsprop": {"eps", "weight_decay", "momentum"},
    "sgd": {"weight_decay", "momentum"},
    "schedule_free": {"betas", "eps", "weight_decay"},
}
VALUES: dict[str, Any] = {"betas": [0.8, 0.95], "eps": 1e-3, "weight_decay": 0.3, "momentum": 0.7, "amsgrad": True}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("argument", VALUES)
def test_an_argument_reaches_the_optimizer_or_is_refused_by_field(name: str, argument: str) -> None:
    module = Quadratic()
    if argument not in TAKEN[name]:
        with pytest.raises(InputError, match=rf"train\.optimizer\.{argument}: .*found {name}, expected .*weight_decay"):
            build(name, module, **{argument: VALUES[argument]})
        return
    group = build(name, module, **{argument: VALUES[argument]}).param_groups[0]
    assert group[argument] == (tuple(VALUES[argument]) if argument == "betas" else VALUES[argument])


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad"])
def test_fused_where_torch_has_it(name: str) -> None:
    assert build(name, Quadratic()).param_groups[0]["fused"] is True


@pytest.mark.parametrize("name", NAMES)
def test_multiplier_of_a_parameter_is_respected(name: str) -> None:
    module = Quadratic(multiplier=0.25)
    optimizer = build(name, module)
    set_lr(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.0025]
    steps(module, optimizer, 1)
    assert module.bias[0].item() == pytest.approx(module.weight[0, 0].item() / 4, rel=1e-4)


def test_schedule_free_is_the_package_itself() -> None:
    ours, theirs = Quadratic(), Quadratic()
    config = OptimizerConfig(name="schedule_free", betas=(0.9, 0.99), weight_decay=0.1)
    mine = build_optimizer(config, ours, 0.03, device=CPU, warmup=5)
    reference = AdamWScheduleFree(theirs.parameters(), lr=0.03, betas=(0.9, 0.99), weight_decay=0.1, warmup_steps=5)
    steps(ours, mine, 17)
    steps(theirs, reference, 17)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    training_form(mine, False)
    reference.eval()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_reset_forgets_the_moments_of_those_rows_and_of_no_others(name: str) -> None:
    module = Quadratic()
    optimizer = build(name, module, **({"momentum": 0.9} if "momentum" in TAKEN[name] else {}))
    steps(module, optimizer, 5)
    rows_F = torch.tensor([False, True, False, False, True, False])
    with torch.no_grad():
        module.weight[rows_F] = 7.0  # as a resampling does before
    before = {p: {k: v.clone() for k, v in optimizer.state[p].items() if isinstance(v, Tensor)} for p in module.parameters()}
    reset_rows(optimizer, module.weight, rows_F)
    assert any(v.shape == module.weight.shape for v in before[module.weight].values())
    for key, old in before[module.weight].items():
        new = optimizer.state[module.weight][key]
        if old.shape != module.weight.shape:
            assert torch.equal(new, old)  # counts of steps
            continue
        assert torch.equal(new[~rows_F], old[~rows_F])
        assert bool((new[rows_F] == (7.0 if key == "z" else 0.0)).all())
        assert key == "z" or bool(old[rows_F].any())
    for key, old in before[module.bias].items():
        assert torch.equal(optimizer.state[module.bias][key], old)


def test_nothing_is_forgotten_before_the_first_step() -> None:
    module = Quadratic()
    reset_rows(build("adam", module), module.weight, torch.ones(6, dtype=torch.bool))
