"""A source of activations whose features are known: each row is a sparse, positive sum of unit directions.

Shapes: B tokens in a batch, D dimensions, G true features.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from sae.config import generator


class SyntheticSource:
    """Rows Σ_g a_g d_g + offset, with each a_g uniform in [0.5, 1.5] with probability `density`, else 0."""

    def __init__(
        self, d_in: int = 16, features: int = 24, density: float = 0.08, scale: float = 1.0, offset: float = 0.0
    ) -> None:
        self.d_in, self.density, self.scale, self.offset = d_in, density, scale, offset
        directions_GD = torch.randn(features, d_in, generator=generator(0, "directions"))
        self.directions_GD = directions_GD / directions_GD.norm(dim=1, keepdim=True)
        self.served: list[int] = []

    @property
    def hook_points(self) -> list[str]:
        return ["synthetic"]

    @property
    def widths(self) -> list[int]:
        return [self.d_in]

    @property
    def target_hook_points(self) -> list[str]:
        return self.hook_points

    @property
    def target_widths(self) -> list[int]:
        return self.widths

    @property
    def rows(self) -> int:
        return 1_000_000

    def sample(self, count: int, *names: str) -> Tensor:
        """Rows [count, D] that `names` decide."""
        stream = generator(0, "rows", *names)
        shape = (count, len(self.directions_GD))
        active_BG = torch.rand(shape, generator=stream) < self.density
        return self.scale * ((active_BG * (0.5 + torch.rand(shape, generator=stream))) @ self.directions_GD + self.offset)

    def mean(self) -> Tensor:
        return self.sample(4096, "statistics").mean(0)

    def mean_norm(self) -> float:
        return float(self.sample(4096, "statistics").norm(dim=1).mean())

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for number in itertools.count(start):
            self.served.append(number)
            x_BD = self.sample(batch_size, f"seed {seed}", f"batch {number}")
            yield x_BD, x_BD
