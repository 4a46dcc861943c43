"""What the trainer asks of a source of activations, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class ActivationSource(Protocol):
    """Batches of activations in an order that a seed decides.

    Attributes:
        d_in: width of the activations.
        hook_points: where they come from.
        rows: how many there are in an epoch.
    """

    @property
    def d_in(self) -> int: ...

    @property
    def hook_points(self) -> list[str]: ...

    @property
    def rows(self) -> int: ...

    def mean(self) -> Tensor:
        """Mean activation [D] over the whole split."""

    def mean_norm(self) -> float:
        """Mean Euclidean norm of an activation over the whole split."""

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[Tensor]:
        """Batches [B, D] in float32, endlessly, from batch number `start` on.

        A batch is a function of seed and number alone, so the number is all that a resumed run needs.
        """
