"""Small operations as modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sae.core.cache import Cache, Module, run
from sae.core.composition import Parallel


class Identity(Module):
    """The input, unchanged."""

    def forward(self, x: Any, *, cache: Cache) -> Any:
        return x


class Add(Module):
    """x + parameter."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.bias = parameter

    def forward(self, x: torch.Tensor, *, cache: Cache) -> torch.Tensor:
        return x + self.bias


class Sub(Module):
    """x - parameter."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.bias = parameter

    def forward(self, x: torch.Tensor, *, cache: Cache) -> torch.Tensor:
        return x - self.bias


class Thresh(Module):
    """1 where the module's output is positive, else 0; no gradient passes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any, *, cache: Cache) -> torch.Tensor:
        output: torch.Tensor = run(self.module, x, cache["module"])
        return (output > 0).to(output.dtype)


class AddParallel(Parallel):
    """The sum of its children's outputs."""

    def __init__(self, *items: nn.Module | nn.Parameter, **named: nn.Module | nn.Parameter) -> None:
        super().__init__(*items, **named)
        self.reduce(torch.add, binary=True)


class MulParallel(Parallel):
    """The elementwise product of its children's outputs."""

    def __init__(self, *items: nn.Module | nn.Parameter, **named: nn.Module | nn.Parameter) -> None:
        super().__init__(*items, **named)
        self.reduce(torch.mul, binary=True)
