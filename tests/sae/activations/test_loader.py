"""Batches from a store: every row once an epoch, in an order that seed and epoch decide, from any batch on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.activations.loader import StoreSource
from sae.activations.store import ORIGIN, StoreWriter
from sae.config import InputError

ROWS = 47


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several shards. Row i is (i, -i) at hook point `a`, and (i, i, i) at `b`."""
    folder = tmp_path_factory.mktemp("store")
    writer = StoreWriter(
        folder, split="train", hook_points={"a": 2, "b": 3}, rows=ROWS, dtype=torch.float16, shard_bytes=250, shuffle_seed=1
    )
    number = torch.arange(ROWS)
    values = number[:, None].half()
    writer.write(0, {"a": torch.cat([values, -values], 1), "b": values.expand(-1, 3)}, dict.fromkeys(ORIGIN, number))
    writer.finish({})
    return folder


def take(directory: Path, count: int, batch_size: int, seed: int = 0, start: int = 0, hook_point: str = "a") -> list[Tensor]:
    return list(islice(StoreSource(directory, hook_point).batches(batch_size, seed=seed, start=start), count))


def numbers(batches: list[Tensor]) -> list[int]:
    return torch.cat(batches)[:, 0].int().tolist()


@pytest.mark.parametrize("batch_size", [1, 5, 47, 60, 200])
def test_every_row_comes_exactly_once_an_epoch(directory: Path, batch_size: int) -> None:
    epochs = 3
    order = numbers(take(directory, -(-epochs * ROWS // batch_size), batch_size))
    for epoch in range(epochs):
        assert sorted(order[epoch * ROWS : (epoch + 1) * ROWS]) == list(range(ROWS))


def test_batches_are_whole_and_in_float32(directory: Path) -> None:
    assert len(StoreSource(directory, "a").store.manifest.shards) > 2
    for batch_BD in take(directory, 30, 10):
        assert batch_BD.shape == (10, 2)
        assert batch_BD.dtype == torch.float32
        assert torch.equal(batch_BD[:, 0], -batch_BD[:, 1])


def test_order_differs_by_epoch_and_by_seed_and_repeats_with_the_seed(directory: Path) -> None:
    one, again, other = (numbers(take(directory, 2 * ROWS, 1, seed)) for seed in (3, 3, 4))
    assert one == again
    assert one != other
    assert one[:ROWS] != one[ROWS:]


def test_order_does_not_depend_on_the_batch_size(directory: Path) -> None:
    assert numbers(take(directory, 60, 5))[:290] == numbers(take(directory, 42, 7))[:290]


@given(st.integers(1, 120), st.integers(0, 30), st.integers(0, 5))
def test_starting_later_is_skipping_batches(directory: Path, batch_size: int, start: int, seed: int) -> None:
    skipped = take(directory, start + 3, batch_size, seed)[start:]
    begun = take(directory, 3, batch_size, seed, start)
    assert all(torch.equal(a, b) for a, b in zip(skipped, begun, strict=True))


def test_hook_points_are_told_apart(directory: Path) -> None:
    for b_BD in take(directory, 5, 10, hook_point="b"):
        assert b_BD.shape == (10, 3)
    assert numbers(take(directory, 5, 10, hook_point="a")) == numbers(take(directory, 5, 10, hook_point="b"))


def test_source_says_what_it_holds(directory: Path) -> None:
    source = StoreSource(directory, "b")
    assert (source.d_in, source.hook_points, source.rows) == (3, ["b"], ROWS)
    torch.testing.assert_close(source.mean(), torch.full((3,), 23.0))
    assert source.mean_norm() == pytest.approx(23 * 3**0.5)
    assert StoreSource(directory).hook_point == "a"


def test_unknown_hook_point_is_refused(directory: Path) -> None:
    with pytest.raises(InputError, match=r"sae\.hook_point: .*expected a, b"):
        StoreSource(directory, "c")
