"""What the trainer asks of a source of activations, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class ActivationSource(Protocol):
    """Batches of activations in an order that a seed decides.

    Activations of several hook points stand side by side in one row, in the order of `hook_points`.

    Attributes:
        hook_points: where the inputs come from.
        widths: how many dimensions each hook point has in an input; their sum is d_in.
        target_hook_points: where the targets come from; the same as the inputs for an autoencoder.
        target_widths: the same for a target; their sum is d_out.
    """

    @property
    def hook_points(self) -> list[str]: ...

    @property
    def widths(self) -> list[int]: ...

    @property
    def target_hook_points(self) -> list[str]: ...

    @property
    def target_widths(self) -> list[int]: ...

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of inputs [B, d_in] and targets [B, d_out] in float32, endlessly, from batch number `start` on.

        Where targets are the inputs, both are the same object. A batch is a function of seed and number alone, so the
        number is all that a resumed run needs.
        """
