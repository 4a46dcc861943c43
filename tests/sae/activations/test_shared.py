"""A shared stream: read once, the same for all, bounded in memory, and nobody waits for one who has gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from sae.activations.shared import SharedStream
from sae.activations.synthetic import SyntheticConfig, SyntheticSource
from sae.architectures.topk import TopKSAE
from sae.config import Failure
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer


class Counting(SyntheticSource):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__(SyntheticConfig(features=32, widths=[8], l0=2))
        self.read: list[tuple[int, int]] = []

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(super().batches(batch_size, seed=seed, start=start), start):
            self.read.append((seed, number))
            yield batch


def in_threads(*works: object) -> None:
    threads = [threading.Thread(target=work) for work in works]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_every_consumer_gets_every_batch_and_each_is_read_once() -> None:
    source = Counting()
    stream = SharedStream(source, 16, seed=0, consumers=3, patience=20)
    got: dict[int, list[Tensor]] = {}

    def consume(index: int) -> None:
        got[index] = [x for x, _ in islice(stream.consumers[index].batches(16, seed=0), 50)]

    in_threads(*(lambda i=i: consume(i) for i in range(3)))
    expected = [x for x, _ in islice(Counting().batches(16, seed=0), 50)]
    for index in range(3):
        assert all(torch.equal(a, b) for a, b in zip(got[index], expected, strict=True))
    assert source.read == [(0, number) for number in range(50)]


def test_who_is_ahead_waits_for_the_slowest() -> None:
    source = Counting()
    stream = SharedStream(source, 16, seed=0, consumers=2, ahead=3)
    done = threading.Event()
    slow = stream.consumers[1].batches(16, seed=0)
    next(slow)

    def fast() -> None:
        list(islice(stream.consumers[0].batches(16, seed=0), 20))
        done.set()

    thread = threading.Thread(target=fast)
    thread.start()
    assert not done.wait(0.3)
    assert len(source.read) <= 4
    list(islice(slow, 18))
    assert done.wait(10)
    thread.join()


def test_a_consumer_that_ended_holds_nobody_up() -> None:
    stream = SharedStream(Counting(), 16, seed=0, consumers=2, ahead=2, patience=5)
    first = stream.consumers[0].batches(16, seed=0)
    next(first)
    first.close()  # type: ignore[attr-defined]
    assert len(list(islice(stream.consumers[1].batches(16, seed=0), 30))) == 30


def test_a_consumer_that_never_comes_is_told_of() -> None:
    stream = SharedStream(Counting(), 16, seed=0, consumers=2, ahead=2, patience=0.1)
    with pytest.raises(Failure, match="took none for too long"):
        list(islice(stream.consumers[0].batches(16, seed=0), 30))


def test_other_seeds_and_what_has_gone_by_are_read_apart() -> None:
    source = Counting()
    one, other = SharedStream(source, 16, seed=0, consumers=2, ahead=20).consumers
    later = [x for x, _ in islice(one.batches(16, seed=0, start=5), 3)]
    assert len(list(islice(other.batches(16, seed=9), 2))) == 2
    early = [x for x, _ in islice(other.batches(16, seed=0, start=4), 4)]
    expected = [x for x, _ in islice(Counting().batches(16, seed=0, start=4), 4)]
    assert all(torch.equal(a, b) for a, b in zip(early, expected, strict=True))
    assert torch.equal(later[0], expected[1])


def test_trainers_on_one_stream_end_as_trainers_alone() -> None:
    config = TrainConfig(steps=12, batch_size=16, l0_target=2, log_every=4)

    def trainer(source: object, seed: int) -> Trainer:
        return Trainer(TopKSAE(d_in=8, d_sae=16, l0_target=2, seed=seed), source, config)  # type: ignore[arg-type]

    alone = [trainer(Counting(), seed) for seed in range(3)]
    for run in alone:
        run.train()
    source = Counting()
    stream = SharedStream(source, 16, seed=config.seed, consumers=3, patience=20)
    together = [trainer(consumer, seed) for seed, consumer in enumerate(stream.consumers)]
    in_threads(*(run.train for run in together))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.trainable.parameters(), other.trainable.parameters(), strict=True))
    assert [number for seed, number in source.read if seed == config.seed] == list(range(13))
