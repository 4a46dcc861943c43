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
    batches = StoreSource(directory, hook_point).batches(batch_size, seed=seed, start=start)
    return [x_BD for x_BD, _ in islice(batches, count)]


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
    assert (source.hook_points, source.widths, source.rows) == (["b"], [3], ROWS)
    assert (source.target_hook_points, source.target_widths) == (["b"], [3])
    assert StoreSource(directory).hook_point == "a"


def test_target_is_the_input_itself(directory: Path) -> None:
    assert all(x_BD is y_BD for x_BD, y_BD in islice(StoreSource(directory, "a").batches(10, seed=0), 12))


def with_special_tokens(folder: Path, special: list[int]) -> StoreSource:
    """The same rows with token numbers 0, 1, 2, 3, 4, 0, 1, … of which some are special."""
    writer = StoreWriter(
        folder, split="held_out", hook_points={"a": 2}, rows=ROWS, dtype=torch.float16, shard_bytes=250, context=47
    )
    number = torch.arange(ROWS)
    origin = dict.fromkeys(ORIGIN, number) | {"token": number % 5}
    writer.write(0, {"a": number[:, None].half().expand(-1, 2)}, origin)
    writer.finish({}, special)
    return StoreSource(folder)


@pytest.mark.parametrize("start", [0, 1, 5, 13])
def test_rows_of_special_tokens_are_not_served(start: int, tmp_path: Path) -> None:
    source = with_special_tokens(tmp_path, [0, 3])
    wanted = [i for i in range(ROWS) if i % 5 not in (0, 3)]
    assert source.rows == len(wanted) == 28
    order = numbers([x_BD for x_BD, _ in islice(source.batches(4, seed=0), 14)])  # two epochs of 28 rows
    assert sorted(order[:28]) == sorted(order[28:]) == wanted
    later = numbers([x_BD for x_BD, _ in islice(source.batches(4, seed=0, start=start), 1)])
    assert later == numbers([x_BD for x_BD, _ in islice(source.batches(4, seed=0), start + 1)])[4 * start :]


def test_shard_of_special_tokens_alone_is_passed_over(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, split="held_out", hook_points={"a": 2}, rows=ROWS, dtype=torch.float16, shard_bytes=250)
    number = torch.arange(ROWS)
    special = (number >= 10).int()  # all but the first ten rows
    writer.write(0, {"a": number[:, None].half().expand(-1, 2)}, dict.fromkeys(ORIGIN, number) | {"token": special})
    writer.finish({}, [1])
    order = numbers([x_BD for x_BD, _ in islice(StoreSource(tmp_path).batches(5, seed=0), 4)])
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))


def test_store_of_nothing_but_special_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows but those of special tokens"):
        with_special_tokens(tmp_path, [0, 1, 2, 3, 4])


def test_unknown_hook_point_is_refused(directory: Path) -> None:
    with pytest.raises(InputError, match=r"sae\.hook_point: .*expected a, b"):
        StoreSource(directory, "c")
