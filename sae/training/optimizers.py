"""Optimizers by name, each with only the arguments that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from sae.config import InputError, SweepableConfig

DecayRate = Annotated[float, Field(ge=0, lt=1)]

_TORCH: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
    "nadam": torch.optim.NAdam,
    "adamax": torch.optim.Adamax,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
_FUSED_ON = ("cpu", "cuda")


class OptimizerConfig(SweepableConfig):
    """Which optimizer. What is left out has the optimizer's own default; what it does not take is refused."""

    name: Literal["adam", "adamw", "radam", "nadam", "adamax", "adagrad", "rmsprop", "sgd", "schedule_free"] = Field(
        default="adam", description="`schedule_free` is AdamW without a cooldown (Defazio et al. 2024)."
    )
    betas: tuple[DecayRate, DecayRate] | None = Field(default=None, description="Decay rates of the two moments.")
    eps: float | None = Field(default=None, gt=0, description="Added to the denominator.")
    weight_decay: float | None = Field(default=None, ge=0, description="Pull of all parameters towards 0.")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="Of sgd and rmsprop.")
    amsgrad: bool | None = Field(default=None, description="Keep the largest second moment.")


def build_optimizer(
    config: OptimizerConfig, module: nn.Module, lr: float, *, device: torch.device, warmup: int = 0
) -> torch.optim.Optimizer:
    """The optimizer of a module's parameters, fused where torch has it fused.

    Parameters with an `lr_multiplier` other than 1 stand in groups of their own; every group carries its multiplier.

    Args:
        config: see above.
        module: whose parameters it moves.
        lr: learning rate on the plateau.
        device: where the parameters are.
        warmup: steps of the rise of the learning rate, which `schedule_free` does itself.

    Raises:
        InputError: an argument is set that this optimizer does not take.
    """
    groups = _groups(module.parameters(), lr)
    wanted = {
        name: value for name in OptimizerConfig.model_fields if (value := getattr(config, name)) is not None and name != "name"
    }
    if config.name == "schedule_free":
        from schedulefree import AdamWScheduleFree

        _check(wanted, AdamWScheduleFree, config.name)
        return AdamWScheduleFree(groups, lr=lr, warmup_steps=warmup, **wanted)  # type: ignore[no-any-return]
    cls = _TORCH[config.name]
    taken = _check(wanted, cls, config.name)
    if "fused" in taken and device.type in _FUSED_ON:
        wanted["fused"] = True
    return cls(groups, lr=lr, **wanted)  # type: ignore[call-arg]


def _check(wanted: dict[str, Any], cls: type, name: str) -> set[str]:
    taken = set(inspect.signature(cls).parameters)
    for argument in wanted:
        if argument not in taken:
            expected = ", ".join(sorted(taken & set(OptimizerConfig.model_fields)))
            raise InputError(
                "this optimizer takes no such argument", where=f"train.optimizer.{argument}", found=name, expected=expected
            )
    return taken


def _groups(parameters: Iterable[nn.Parameter], lr: float) -> list[dict[str, Any]]:
    by_multiplier: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_multiplier.setdefault(float(getattr(parameter, "lr_multiplier", 1.0)), []).append(parameter)
    return [{"params": group, "lr": lr * multiplier, "lr_multiplier": multiplier} for multiplier, group in by_multiplier.items()]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr` times its multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_multiplier"]


def training_form(optimizer: torch.optim.Optimizer, training: bool) -> None:
    """Put the parameters into the form to train on, or the one to use: they differ for `schedule_free` alone."""
    if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
        optimizer.train() if training else optimizer.eval()


@torch.no_grad()
def reset_rows(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, rows_F: torch.Tensor) -> None:
    """Forget what the optimizer knows of some rows [F] (mask) of a parameter, and of no others.

    Moments become 0. `schedule_free` keeps a second copy of the parameter itself (`z`), which becomes the parameter.
    """
    for name, value in optimizer.state.get(parameter, {}).items():
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            value[rows_F] = parameter.detach()[rows_F].to(value.dtype) if name == "z" else 0
