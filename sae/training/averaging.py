"""Averaged weights: an exponential moving average over steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """w̄ ← w̄ + (1 - d) (w - w̄) after every step, with d = min(decay, (1 + t) / (10 + t)), so that the start is soon forgotten.

    Args:
        module: whose parameters are averaged.
        decay: what an old value keeps of its weight at each step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = dict(module.named_parameters())
        self.begin()

    def begin(self) -> None:
        """Begin anew from the weights as they are now."""
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, counted from 0."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in self._live.values()], 1 - keep)

    @torch.no_grad()
    def forget(self, rows_F: Tensor, kind: type) -> None:
        """Take rows [F] (mask) of all parameters of a kind as they are now: what they were is of no use."""
        for name, parameter in self._live.items():
            if isinstance(parameter, kind):
                self.weights[name][rows_F] = parameter.detach()[rows_F]

    @torch.no_grad()
    def take(self) -> None:
        """Give the module the averaged weights."""
        for name, parameter in self._live.items():
            parameter.copy_(self.weights[name])
