"""The store: every row at its place, once, however the writing went; damage is seen and named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from sae.activations.permutation import Permutation
from sae.activations.shards import ShardFile
from sae.activations.store import ORIGIN, Store, StoreWriter
from sae.config import Failure, InputError

POINTS = {"a": 4, "b": 3}
ROWS = 103


def rows_of(dtype: torch.dtype = torch.float32, rows: int = ROWS, points: dict[str, int] = POINTS) -> dict[str, Tensor]:
    """Rows of random numbers, and origin columns from which each row's number can be told."""
    generator = torch.Generator().manual_seed(0)
    columns = {name: torch.randn(rows, width, generator=generator).to(dtype) for name, width in points.items()}
    number = torch.arange(rows)
    return columns | {"document": number // 10, "position": number % 10, "token": 1000 + number}


def writer(directory: Path, dtype: torch.dtype = torch.float32, **more: Any) -> StoreWriter:
    options: dict[str, Any] = {"split": "train", "hook_points": POINTS, "rows": ROWS, "shard_bytes": 1000, "shuffle_seed": 5}
    return StoreWriter(directory, dtype=dtype, **options | more)


def feed(store: StoreWriter, columns: dict[str, Tensor], start: int, stop: int, batch: int = 7) -> None:
    for at in range(start, stop, batch):
        here = slice(at, min(at + batch, stop))
        store.write(at, {n: columns[n][here] for n in store.hook_points}, {n: columns[n][here] for n in ORIGIN})


def written(directory: Path, dtype: torch.dtype = torch.float32, **more: Any) -> Store:
    store = writer(directory, dtype, **more)
    feed(store, rows_of(dtype, store.rows, store.hook_points), 0, store.rows)
    store.finish({"tokens": "abc"})
    return Store(directory)


def contents(store: Store) -> dict[str, Tensor]:
    """All rows in the order of the shards."""
    names = [*store.manifest.hook_points, *ORIGIN]
    shards = [store.read_shard(i, names) for i in range(len(store.manifest.shards))]
    return {name: torch.cat([shard[name] for shard in shards]) for name in names}


def digests(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_land_where_the_permutation_says_with_their_origin(dtype: torch.dtype, tmp_path: Path) -> None:
    store = written(tmp_path, dtype)
    assert len(store.manifest.shards) >= 3
    found, given_rows = contents(store), rows_of(dtype)
    places = torch.from_numpy(Permutation(ROWS, 5, "activations", "train")(np.arange(ROWS)))
    for name, column in given_rows.items():
        assert torch.equal(found[name][places], column.to(found[name].dtype)), name
    assert found["a"].dtype == dtype


def test_without_a_shuffle_rows_stay_in_sequence(tmp_path: Path) -> None:
    store = written(tmp_path, shuffle_seed=None, context=10)
    assert torch.equal(contents(store)["token"], rows_of()["token"].int())
    assert (store.manifest.shuffle_seed, store.manifest.context) == (None, 10)


@given(st.integers(1, 200), st.integers(1, 5), st.integers(40, 5000), st.integers(1, 50), st.sampled_from([None, 0, 7]))
def test_every_row_stands_exactly_once(rows: int, width: int, shard_bytes: int, batch: int, seed: int | None) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        points = {"a": width}
        store = writer(Path(folder), torch.float16, rows=rows, hook_points=points, shard_bytes=shard_bytes, shuffle_seed=seed)
        columns = rows_of(torch.float16, rows, points)
        feed(store, columns, 0, rows, batch)
        store.finish({})
        found = contents(Store(Path(folder)))
        order = found["token"].argsort()
        assert torch.equal(found["token"][order], columns["token"].int())
        assert torch.equal(found["a"][order], columns["a"])


def test_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    written(tmp_path / "in order")
    store = writer(tmp_path / "backwards")
    for start in reversed(range(0, ROWS, 7)):
        feed(store, rows_of(), start, min(start + 7, ROWS))
    store.finish({"tokens": "abc"})
    one, other = digests(tmp_path / "in order"), digests(tmp_path / "backwards")
    assert {k: v for k, v in one.items() if k.startswith("shard")} == {k: v for k, v in other.items() if k.startswith("shard")}


def test_shards_are_plain_safetensors_of_about_the_size_asked_for(tmp_path: Path) -> None:
    store = written(tmp_path, torch.bfloat16)
    for i, shard in enumerate(store.manifest.shards):
        tensors = load_file(tmp_path / shard.file)
        assert set(tensors) == {*POINTS, *ORIGIN}
        assert all(len(tensor) == shard.rows for tensor in tensors.values())
        assert torch.equal(tensors["a"], store.read_shard(i, ["a"])["a"])
        assert shard.rows * (2 * 7 + 12) <= 1000 + (2 * 7 + 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_statistics_are_of_the_stored_rows(dtype: torch.dtype, tmp_path: Path) -> None:
    store, columns = written(tmp_path, dtype), rows_of(dtype)
    for name in POINTS:
        x = columns[name].double().numpy()
        np.testing.assert_allclose(store.mean(name).numpy(), x.mean(0), rtol=1e-6, atol=1e-7)
        assert store.manifest.mean_norm[name] == pytest.approx(np.sqrt((x**2).sum(1)).mean(), rel=1e-12)


def test_manifest_tells_what_the_store_holds(tmp_path: Path) -> None:
    manifest = written(tmp_path, torch.float16).manifest
    assert (manifest.split, manifest.hook_points, manifest.dtype, manifest.rows) == ("train", POINTS, "float16", ROWS)
    assert manifest.inputs == {"tokens": "abc"}
    assert sum(shard.rows for shard in manifest.shards) == ROWS
    assert sorted(digests(tmp_path)) == sorted(["manifest.json", "statistics.safetensors", *(s.file for s in manifest.shards)])


# Resuming


@pytest.mark.parametrize(("checkpoint", "lost"), [(28, 28), (28, 63), (49, ROWS), (0, 35)])
def test_writer_that_was_killed_goes_on_to_the_same_bytes(checkpoint: int, lost: int, tmp_path: Path) -> None:
    written(tmp_path / "whole")
    killed = writer(tmp_path / "killed")
    feed(killed, rows_of(), 0, checkpoint)
    if checkpoint:
        killed.checkpoint(checkpoint)
    feed(killed, rows_of(), checkpoint, lost)
    del killed
    resumed = writer(tmp_path / "killed")
    done = resumed.resume()
    assert done == checkpoint
    feed(resumed, rows_of(), done, ROWS)
    resumed.finish({"tokens": "abc"})
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_writer_that_was_killed_while_it_closed_its_shards_loses_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "whole")
    killed = writer(tmp_path / "killed")
    feed(killed, rows_of(), 0, 70)
    killed.checkpoint(70)
    feed(killed, rows_of(), 70, ROWS)
    close, closed = ShardFile.close, []

    def close_two(shard: ShardFile) -> Path:
        if len(closed) == 2:
            raise KeyboardInterrupt
        closed.append(shard.path)
        return close(shard)

    monkeypatch.setattr(ShardFile, "close", close_two)
    with pytest.raises(KeyboardInterrupt):
        killed.finish({"tokens": "abc"})
    monkeypatch.undo()
    resumed = writer(tmp_path / "killed")
    feed(resumed, rows_of(), resumed.resume(), ROWS)
    resumed.finish({"tokens": "abc"})
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_shard_whose_writer_was_killed_while_laying_it_out_is_laid_out_again(tmp_path: Path) -> None:
    written(tmp_path / "whole")
    writer(tmp_path / "killed")
    partial = sorted((tmp_path / "killed").glob("*.partial"))[1]
    partial.write_bytes(bytes(partial.stat().st_size))  # full size, no header
    resumed = writer(tmp_path / "killed")
    feed(resumed, rows_of(), resumed.resume(), ROWS)
    resumed.finish({"tokens": "abc"})
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_shards_bear_their_names_only_once_they_are_whole(tmp_path: Path) -> None:
    store = writer(tmp_path)
    feed(store, rows_of(), 0, ROWS)
    store.checkpoint(ROWS)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(InputError, match="no activation store"):
        Store(tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float16, 70_000.0), (torch.float32, float("nan")), (torch.bfloat16, float("inf"))]
)
def test_activation_that_the_type_cannot_hold_is_refused(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    columns = rows_of()
    columns["b"][50, 1] = value
    with pytest.raises(Failure, match=r"b: activations overflow .*activations\.dtype"):
        feed(writer(tmp_path, dtype), columns, 0, ROWS)


def test_large_activations_fit_bfloat16(tmp_path: Path) -> None:
    columns = rows_of() | {"b": torch.full((ROWS, 3), 70_000.0)}
    store = writer(tmp_path, torch.bfloat16)
    feed(store, columns, 0, ROWS)
    assert store.finish({}).mean_norm["b"] == pytest.approx(70_000 * 3**0.5, rel=1e-2)


def test_no_store_is_told_from_a_damaged_or_foreign_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no activation store"):
        Store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 1,')
    with pytest.raises(Failure, match=r"manifest\.json: the manifest is damaged"):
        Store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 9}')
    with pytest.raises(InputError, match=r"another schema.*found 9"):
        Store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "rows": 3}')
    with pytest.raises(Failure, match=r"manifest\.json: the manifest is damaged"):
        Store(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    file = written(tmp_path).manifest.shards[2].file
    (tmp_path / file).unlink()
    with pytest.raises(Failure, match=rf"{file}: a shard of this store is missing"):
        Store(tmp_path)


def test_shard_that_was_cut_off_is_named(tmp_path: Path) -> None:
    store = written(tmp_path)
    file = tmp_path / store.manifest.shards[1].file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Failure, match=rf"{file.name}: this shard is damaged"):
        Store(tmp_path).read_shard(1, ["a"])
    assert store.damaged_shards() == [file.name]


def test_checksums_find_a_single_flipped_bit(tmp_path: Path) -> None:
    store = written(tmp_path)
    assert store.damaged_shards() == []
    file = tmp_path / store.manifest.shards[0].file
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    assert store.damaged_shards() == [file.name]


def test_missing_statistics_are_named(tmp_path: Path) -> None:
    store = written(tmp_path)
    (tmp_path / "statistics.safetensors").unlink()
    with pytest.raises(Failure, match=r"statistics\.safetensors"):
        store.mean("a")


def test_unknown_hook_point_names_the_nearest(tmp_path: Path) -> None:
    store = written(tmp_path, hook_points={"model.layers.1": 4, "model.layers.2": 3})
    store.check_hook_point("model.layers.2", "sae.hook_point")
    with pytest.raises(InputError) as caught:
        store.check_hook_point("model.layer.2", "sae.hook_point")
    assert str(caught.value).startswith("sae.hook_point: the store has no such hook point (found model.layer.2")
    assert str(caught.value).endswith("did you mean 'model.layers.2'?")


def test_full_disk_is_a_failure_that_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(Failure, match=r"shard-00000\.safetensors: the disk is full"):
        writer(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_readable_text(tmp_path: Path) -> None:
    store = writer(tmp_path)
    feed(store, rows_of(), 0, 28)
    store.checkpoint(28)
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 28
