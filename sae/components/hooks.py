"""Training-time behaviour of modules: what a module does between the parts of a training step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from sae.core import Cache, Module, run


class TrainingHooks(Module):
    """A module that acts during training. Override what is needed; gradients are unscaled when hooks see them."""

    def post_backward(self, cache: Cache | None) -> None:
        """After the backward pass, before the optimizer's step."""

    def post_step(self, cache: Cache | None) -> None:
        """After the optimizer's step, after a resampling, and once before the first step (cache is None)."""


class Wrapper(TrainingHooks):
    """A module around another: the same output, and the attributes of the module inside."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Any, *, cache: Cache) -> Any:
        return run(self.wrapped, x, cache)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)


def training_hooks(module: nn.Module) -> Iterator[TrainingHooks]:
    """Every module below that acts during training, inner ones before those around them, each once."""
    return (m for m in reversed(list(module.modules())) if isinstance(m, TrainingHooks))
