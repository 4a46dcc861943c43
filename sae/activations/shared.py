"""One read of the activations for several trainers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from sae.config import Failure

if TYPE_CHECKING:
    from sae.training.source import ActivationSource

Batch = tuple[Tensor, Tensor]


class SharedStream:
    """The batches of a source, read once, for consumers that each run in a thread of their own.

    Whoever is ahead waits until the slowest is no more than `ahead` batches behind, so memory holds no more than that. A
    consumer that has ended holds nobody up.

    Args:
        source: where batches come from.
        batch_size: of all consumers.
        seed: of all consumers.
        consumers: how many there are.
        ahead: see above.
        patience: seconds that one consumer waits for another.

    Attributes:
        consumers: one source for each. It serves the shared batches to who asks for the stream's batch size and seed;
            anything else (samples for statistics, a pool to resample from, a batch that has gone by) it reads by itself.

    Example:
        >>> from sae.activations.synthetic import SyntheticSource
        >>> one, other = SharedStream(SyntheticSource(), 256, seed=0, consumers=2).consumers
        >>> next(one.batches(256, seed=0))[0] is next(other.batches(256, seed=0))[0]
        True
    """

    def __init__(
        self, source: ActivationSource, batch_size: int, *, seed: int, consumers: int, ahead: int = 4, patience: float = 600
    ) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.ahead, self.patience = ahead, patience
        self.consumers = [SharedSource(self) for _ in range(consumers)]
        self._changed = threading.Condition()
        self._wanted: dict[SharedSource, int] = dict.fromkeys(self.consumers, 0)
        self._held: dict[int, Batch] = {}
        self._batches: Iterator[Batch] | None = None
        self._next = 0

    def take(self, consumer: SharedSource, number: int) -> Batch | None:
        """A batch by number, or None if it has gone by.

        Raises:
            Failure: another consumer did not take a batch for too long.
        """
        with self._changed:
            if self._batches is None:
                self._batches, self._next = self.source.batches(self.batch_size, seed=self.seed, start=number), number
                self._wanted = {other: max(wanted, number) for other, wanted in self._wanted.items()}
            self._wanted[consumer] = number
            self._drop()
            while self._next <= number:
                # Another may read it in the meantime.
                if not self._changed.wait_for(lambda: self._next > number or self._lead < self.ahead, self.patience):
                    raise Failure(
                        "a consumer of these shared batches took none for too long",
                        found=f"{self.patience:g} s",
                        expected="a thread for each consumer",
                    )
                if self._next <= number:
                    self._held[self._next] = next(self._batches)
                    self._next += 1
            batch = self._held.get(number)
            self._wanted[consumer] = number + 1
            self._drop()
            return batch

    def leave(self, consumer: SharedSource) -> None:
        """A consumer wants no more."""
        with self._changed:
            self._wanted.pop(consumer, None)
            self._drop()

    @property
    def _lead(self) -> int:
        return self._next - min(self._wanted.values())

    def _drop(self) -> None:
        oldest = min(self._wanted.values(), default=self._next)
        for number in [number for number in self._held if number < oldest]:
            del self._held[number]
        self._changed.notify_all()


class SharedSource:
    """One consumer's view of a shared stream: a source like any other."""

    def __init__(self, stream: SharedStream) -> None:
        self.stream = stream
        source = stream.source
        self.hook_points, self.widths = source.hook_points, source.widths
        self.target_hook_points, self.target_widths = source.target_hook_points, source.target_widths

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[Batch]:
        """The shared batches from number `start` on, where batch size and seed are the stream's."""
        if (batch_size, seed) != (self.stream.batch_size, self.stream.seed):
            yield from self.stream.source.batches(batch_size, seed=seed, start=start)
            return
        number = start
        try:
            while (batch := self.stream.take(self, number)) is not None:
                yield batch
                number += 1
        finally:
            self.stream.leave(self)
        yield from self.stream.source.batches(batch_size, seed=seed, start=number)
