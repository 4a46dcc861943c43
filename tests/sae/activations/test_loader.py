"""Batches from a store: every row once an epoch, in an order that seed and epoch decide, from any batch on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae.activations.loader import StoreSource
from sae.activations.store import Store
from sae.config import InputError
from tests.sae.activations.stores import contents, written

ROWS = 47
SHAPE: dict[str, Any] = {"rows": ROWS, "hook_points": {"a": 2, "b": 3, "c": 1}, "dtype": "float16", "part_rows": 20}


def columns_of(document: Tensor | None = None) -> dict[str, Tensor]:
    """Row i is (i, -i) at hook point `a`, (i, i, i) at `b`, 2 i at `c`."""
    number = torch.arange(ROWS)
    values = number[:, None].float()
    columns = {"a": torch.cat([values, -values], 1), "b": values.expand(-1, 3), "c": 2 * values}
    return columns | {"document": number if document is None else document, "position": number, "token": number}


@pytest.fixture(scope="module", params=["safetensors", "parquet"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several shards."""
    folder = tmp_path_factory.mktemp("store")
    written(folder, columns_of(), shard_bytes=250, shuffle_seed=1, format=request.param, **SHAPE)
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
    assert StoreSource(directory).hook_points == ["a"]


def test_target_is_the_input_itself(directory: Path) -> None:
    assert all(x_BD is y_BD for x_BD, y_BD in islice(StoreSource(directory, "a").batches(10, seed=0), 12))


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_reading_ahead_changes_nothing(directory: Path, ahead: int) -> None:
    batches = islice(StoreSource(directory, "a", ahead=ahead).batches(7, seed=2, start=3), 20)
    assert numbers([x_BD for x_BD, _ in batches]) == numbers(take(directory, 20, 7, 2, 3))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_batch_stays_as_it_is_when_later_ones_come(dtype: str, tmp_path: Path) -> None:
    written(tmp_path, columns_of(), shard_bytes=250, **SHAPE | {"dtype": dtype})
    batches, copies = [], []
    for x_BD, _ in islice(StoreSource(tmp_path, "a").batches(5, seed=0), 20):
        batches.append(x_BD)
        copies.append(x_BD.clone())
    assert all(torch.equal(a, b) for a, b in zip(batches, copies, strict=True))


def test_several_hook_points_stand_side_by_side_and_in_the_order_asked_for(directory: Path) -> None:
    source = StoreSource(directory, ["b", "a"])
    assert (source.hook_points, source.widths) == (["b", "a"], [3, 2])
    for x_BD, y_BD in islice(source.batches(10, seed=0), 6):
        assert x_BD is y_BD
        i_B = x_BD[:, 0]
        assert torch.equal(x_BD, torch.stack([i_B, i_B, i_B, i_B, -i_B], 1))


def test_targets_of_other_hook_points_are_of_the_same_rows(directory: Path) -> None:
    source = StoreSource(directory, "a", ["c", "b"])
    assert (source.target_hook_points, source.target_widths, source.widths) == (["c", "b"], [1, 3], [2])
    for x_BD, y_BD in islice(source.batches(10, seed=0), 6):
        i_B = x_BD[:, 0]
        assert torch.equal(y_BD, torch.stack([2 * i_B, i_B, i_B, i_B], 1))


def test_a_pattern_takes_all_that_fit(directory: Path) -> None:
    assert StoreSource(directory, "[ac]").hook_points == ["a", "c"]


def test_rows_in_eight_bits_come_as_floating_point(tmp_path: Path) -> None:
    written(tmp_path, columns_of(), shard_bytes=200, **SHAPE | {"dtype": "int8"})
    x_BD = torch.cat(take(tmp_path, 1, ROWS))
    assert x_BD.dtype == torch.float32
    wanted = contents(Store(tmp_path))["a"]
    assert torch.equal(x_BD[x_BD[:, 0].argsort()], wanted[wanted[:, 0].argsort()])


def with_special_tokens(folder: Path, special: Callable[[int], bool]) -> StoreSource:
    """The same rows in sequence, those of some numbers being of special tokens."""
    document = torch.tensor([-1 if special(i) else i for i in range(ROWS)])
    written(folder, columns_of(document), shuffle_seed=None, context=47, shard_bytes=250, **SHAPE)
    return StoreSource(folder)


@pytest.mark.parametrize("start", [0, 1, 5, 13])
def test_rows_of_special_tokens_are_not_served(start: int, tmp_path: Path) -> None:
    source = with_special_tokens(tmp_path, lambda i: i % 5 in (0, 3))
    wanted = [i for i in range(ROWS) if i % 5 not in (0, 3)]
    assert source.rows == len(wanted) == 28
    order = numbers([x_BD for x_BD, _ in islice(source.batches(4, seed=0), 14)])  # two epochs of 28 rows
    assert sorted(order[:28]) == sorted(order[28:]) == wanted
    later = numbers([x_BD for x_BD, _ in islice(source.batches(4, seed=0, start=start), 1)])
    assert later == numbers([x_BD for x_BD, _ in islice(source.batches(4, seed=0), start + 1)])[4 * start :]


def test_shard_of_special_tokens_alone_is_passed_over(tmp_path: Path) -> None:
    source = with_special_tokens(tmp_path, lambda i: i >= 10)
    assert len(source.store.manifest.shards) > 3
    order = numbers([x_BD for x_BD, _ in islice(source.batches(5, seed=0), 4)])
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))


def test_store_of_nothing_but_special_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows but those of special tokens"):
        with_special_tokens(tmp_path, lambda _: True)


def test_unknown_hook_point_is_refused(directory: Path) -> None:
    with pytest.raises(InputError, match=r"sae\.hook_points: .*expected a, b, c"):
        StoreSource(directory, "d")
    with pytest.raises(InputError, match=r"sae\.target_hook_points: .*expected a, b, c"):
        StoreSource(directory, "a", ["b", "d"])
