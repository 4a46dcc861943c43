"""What a run tells of itself: figures of one batch, and of the model in inference form.

Shapes: B tokens in a batch, E dimensions of a target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sae.architecture import Trainable
from sae.core import Cache


@torch.no_grad()
def batch_figures(trainable: Trainable, y_BE: Tensor, error_BE: Tensor, loss: Tensor, cache: Cache) -> dict[str, float]:
    """Losses, L0, L1 and the batch's own FVU, Σ(y - ŷ)² / Σ(y - ȳ)²."""
    model = cache["model"]
    figures = {
        "loss": loss.item(),
        "l0": float(model.read("l0")),
        "l1": float(model.read("l1")),
        "fvu": float(error_BE.square().sum() / (y_BE - y_BE.mean(0)).square().sum()),
    }
    return figures | {name: float(cache.read(name)) for name in (*trainable.losses, *trainable.metrics)}


@torch.no_grad()
def measure(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """L0 and FVU over all batches together, not as means of batches.

    Args:
        model: in the form to be measured.
        batches: inputs and targets as the model takes them.
    """
    rows, active, residual = 0, 0.0, 0.0
    total_E = square_E = torch.zeros((), dtype=torch.float64)
    for x_BD, y_BE in batches:
        cache = Cache()
        residual += float((y_BE - model(x_BD, cache=cache)).square().sum())
        active += float(cache.read("l0")) * len(x_BD)
        rows += len(x_BD)
        wide_BE = y_BE.cpu().double()
        total_E, square_E = total_E + wide_BE.sum(0), square_E + wide_BE.square().sum(0)
    variance = float((square_E - total_E.square() / rows).sum())
    return {"l0": active / rows, "fvu": residual / variance if variance > 0 else math.nan}
