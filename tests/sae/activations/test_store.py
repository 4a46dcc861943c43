"""The store: every row at its place, once, in both formats and all types; damage is seen and named."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from sae.activations.encoding import TORCH
from sae.activations.permutation import Permutation
from sae.activations.store import Manifest, Store, fits
from sae.config import Failure, InputError
from tests.sae.activations.stores import POINTS, ROWS, contents, digests, rows_of, written

PLACES = torch.from_numpy(Permutation(ROWS, 5, "activations", "train")(np.arange(ROWS)))


@pytest.mark.parametrize(
    ("format", "dtype"),
    [("safetensors", d) for d in ("float32", "float16", "bfloat16")] + [("parquet", d) for d in ("float32", "float16")],
)
def test_rows_land_where_the_permutation_says_with_their_origin(format: str, dtype: str, tmp_path: Path) -> None:
    store = written(tmp_path, format=format, dtype=dtype)
    assert len(store.manifest.shards) >= 3
    found = contents(store)
    for name, column in rows_of().items():
        expected = column.to(TORCH[dtype]) if name in POINTS else column.int()
        assert torch.equal(found[name][PLACES], expected), name
        assert found[name].dtype == expected.dtype


@pytest.mark.parametrize(("format", "dtype"), [("safetensors", "int8"), ("parquet", "int8"), ("safetensors", "float8")])
def test_rows_in_eight_bits_are_off_by_no_more_than_their_steps(format: str, dtype: str, tmp_path: Path) -> None:
    columns = rows_of()
    columns["a"][7] = 0  # a row without any scale
    columns["a"][8] *= 1e4  # and one with another
    found = contents(written(tmp_path, columns, format=format, dtype=dtype))
    for name in POINTS:
        x, largest = columns[name], columns[name].abs().amax(1, keepdim=True)
        # int8: half a step of largest / 127. float8 e4m3: 3 bits of mantissa, half a step of 2⁻³, and a fixed step below.
        bound = largest / 254 if dtype == "int8" else torch.maximum(x.abs() / 16, largest / 448 * 2**-10)
        assert found[name].dtype == torch.float32
        assert ((found[name][PLACES] - x).abs() <= bound * (1 + 1e-5)).all(), name


def test_without_a_shuffle_rows_stay_in_sequence(tmp_path: Path) -> None:
    store = written(tmp_path, shuffle_seed=None, context=10)
    assert torch.equal(contents(store)["token"], rows_of()["token"].int())
    assert (store.manifest.shuffle_seed, store.manifest.context) == (None, 10)


@given(
    rows=st.integers(1, 200),
    width=st.integers(1, 5),
    shard_bytes=st.integers(40, 5000),
    part_rows=st.integers(1, 250),
    seed=st.sampled_from([None, 0, 7]),
    format=st.sampled_from(["safetensors", "parquet"]),
)
def test_every_row_stands_exactly_once(
    rows: int, width: int, shard_bytes: int, part_rows: int, seed: int | None, format: str
) -> None:
    shape: dict[str, Any] = {"rows": rows, "hook_points": {"a": width}, "shard_bytes": shard_bytes, "part_rows": part_rows}
    with tempfile.TemporaryDirectory() as folder:
        found = contents(written(Path(folder), shuffle_seed=seed, format=format, **shape))
        columns = rows_of(rows, {"a": width})
        order = found["token"].argsort()
        assert torch.equal(found["token"][order], columns["token"].int())
        assert torch.equal(found["a"][order], columns["a"])


@pytest.mark.parametrize("format", ["safetensors", "parquet"])
def test_rows_that_are_left_out_are_counted_and_leave_the_others_where_they_were(format: str, tmp_path: Path) -> None:
    without = [0, 17, 50, 102]
    store = written(tmp_path, without=without, format=format)
    found = contents(store)
    kept = np.setdiff1d(np.arange(ROWS), without)
    order = torch.from_numpy(kept[np.argsort(PLACES[kept].numpy())])
    assert torch.equal(found["token"], rows_of()["token"][order].int())
    assert torch.equal(found["a"], rows_of()["a"][order])
    assert (store.manifest.rows, store.manifest.left_out) == (ROWS - 4, 4)
    np.testing.assert_allclose(store.mean("a"), rows_of()["a"].double()[order].mean(0), rtol=1e-6, atol=1e-7)


def test_a_shard_all_of_whose_rows_are_left_out_is_none(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", shuffle_seed=None)
    first = whole.manifest.shards[0].rows
    store = written(tmp_path / "less", shuffle_seed=None, without=range(first))
    assert len(store.manifest.shards) == len(whole.manifest.shards) - 1
    assert torch.equal(contents(store)["token"], rows_of()["token"][first:].int())


@pytest.mark.parametrize("part_rows", [1, 10, 64, 1000])
def test_how_the_work_was_cut_changes_no_byte_of_a_shard(part_rows: int, tmp_path: Path) -> None:
    written(tmp_path / "one")
    written(tmp_path / "other", part_rows=part_rows)
    one, other = digests(tmp_path / "one"), digests(tmp_path / "other")
    assert {k: v for k, v in one.items() if k.startswith("shard")} == {k: v for k, v in other.items() if k.startswith("shard")}


def test_shards_are_plain_safetensors_of_about_the_size_asked_for(tmp_path: Path) -> None:
    store = written(tmp_path, dtype="bfloat16")
    for i, shard in enumerate(store.manifest.shards):
        tensors = load_file(tmp_path / shard.file)
        assert set(tensors) == {*POINTS, "document", "position", "token"}
        assert all(len(tensor) == shard.rows for tensor in tensors.values())
        assert torch.equal(tensors["a"], store.read_shard(i, ["a"])["a"])
        assert shard.rows * (2 * 7 + 12) <= 1000 + (2 * 7 + 12)
        assert shard.bytes == (tmp_path / shard.file).stat().st_size


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_shards_of_parquet_open_in_the_tools_that_people_have(dtype: str, tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas as pd
    import polars

    store = written(tmp_path / "store", format="parquet", dtype=dtype, hook_points={"model.layers.1": 4})
    wanted = contents(store)
    files = [str(store.directory / shard.file) for shard in store.manifest.shards]
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    named = ", ".join(f"'{file}'" for file in files)
    frames = {
        "pandas": pd.concat([pd.read_parquet(file) for file in files]),
        "polars": polars.read_parquet(files),
        "duckdb": duckdb.sql(f"select * from read_parquet([{named}])").fetchnumpy(),
        "datasets": rows,
    }
    for name, frame in frames.items():
        x = np.stack([np.asarray(row, dtype=np.float32) for row in frame["model.layers.1"]])
        if dtype == "int8":
            x *= np.asarray(frame["model.layers.1/scale"], dtype=np.float32)[:, None]
        np.testing.assert_array_equal(x, wanted["model.layers.1"].float().numpy(), err_msg=name)
        np.testing.assert_array_equal(np.asarray(frame["token"]), wanted["token"].numpy(), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_statistics_are_of_the_stored_rows(dtype: str, tmp_path: Path) -> None:
    store = written(tmp_path, dtype=dtype)
    for name, stored in contents(store).items():
        if name not in POINTS:
            continue
        x = stored.double().numpy()
        norms = np.sqrt((x**2).sum(1))
        np.testing.assert_allclose(store.mean(name).numpy(), x.mean(0), rtol=1e-6, atol=1e-7)
        found = store.manifest.norms[name]
        np.testing.assert_allclose(
            [found.mean, found.rms, found.max], [norms.mean(), np.sqrt((norms**2).mean()), norms.max()], rtol=1e-6
        )
        best = scipy.optimize.minimize(lambda m, x=x: np.linalg.norm(x - m, axis=1).sum(), x.mean(0), tol=1e-12)
        np.testing.assert_allclose(store.geometric_median(name).numpy(), best.x, atol=1e-4)


def test_manifest_tells_what_the_store_holds(tmp_path: Path) -> None:
    manifest = written(tmp_path, dtype="float16").manifest
    assert (manifest.split, manifest.hook_points, manifest.dtype, manifest.format) == ("train", POINTS, "float16", "safetensors")
    assert (manifest.rows, manifest.left_out, manifest.inputs) == (ROWS, 0, {"tokens": "abc"})
    assert sum(shard.rows for shard in manifest.shards) == ROWS
    assert sorted(digests(tmp_path)) == sorted(["manifest.json", "statistics.safetensors", *(s.file for s in manifest.shards)])
    assert Manifest.load(tmp_path) == manifest


# Names


def test_hook_points_are_found_by_name_and_by_pattern_in_the_stores_order(tmp_path: Path) -> None:
    store = written(tmp_path, hook_points={"model.layers.1": 2, "model.layers.2": 3, "model.layers.2.mlp": 1})
    assert store.match_hook_points(["model.layers.*"], "x") == ["model.layers.1", "model.layers.2"]
    assert store.match_hook_points(["model.layers.2.mlp", "model.layers.2"], "x") == ["model.layers.2.mlp", "model.layers.2"]
    assert store.match_hook_points(["model.layers.2", "model.layers.*"], "x") == ["model.layers.2", "model.layers.1"]


def test_unknown_hook_point_names_the_nearest(tmp_path: Path) -> None:
    store = written(tmp_path, hook_points={"model.layers.1": 4, "model.layers.2": 3})
    with pytest.raises(InputError) as caught:
        store.match_hook_points(["model.layer.2"], "sae.hook_points")
    assert str(caught.value).startswith("sae.hook_points: the store has no such hook point (found model.layer.2")
    assert str(caught.value).endswith("did you mean 'model.layers.2'?")


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("*.1?", "h.12", True),
        ("h.[0-3]", "h.4", False),
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
    ],
)
def test_a_star_stays_between_two_dots(pattern: str, name: str, expected: bool) -> None:
    assert fits(pattern, name) == expected


# What is refused


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 70_000.0), ("float32", float("nan")), ("bfloat16", float("inf")), ("int8", float("inf"))]
)
def test_activation_that_the_type_cannot_hold_is_refused(dtype: str, value: float, tmp_path: Path) -> None:
    columns = rows_of()
    columns["b"][50, 1] = value
    with pytest.raises(Failure, match=r"b: activations overflow .*activations\.dtype"):
        written(tmp_path, columns, dtype=dtype)


def test_large_activations_fit_bfloat16(tmp_path: Path) -> None:
    columns = rows_of() | {"b": torch.full((ROWS, 3), 70_000.0)}
    assert written(tmp_path, columns, dtype="bfloat16").manifest.norms["b"].mean == pytest.approx(70_000 * 3**0.5, rel=1e-2)


def test_no_store_is_told_from_a_damaged_or_foreign_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no activation store"):
        Store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 2,')
    with pytest.raises(Failure, match=r"manifest\.json: the manifest is damaged"):
        Store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 9}')
    with pytest.raises(InputError, match=r"another schema.*found 9"):
        Store(tmp_path)
    for content in ('{"schema": 2, "rows": 3}', '{"schema": 2, "shards": 3, "norms": {}}'):
        (tmp_path / "manifest.json").write_text(content)
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
        Store(tmp_path)
    with pytest.raises(Failure, match=rf"{file.name}: this shard is damaged"):
        store.read_shard(1, ["a"])
    assert store.damaged_shards() == [file.name]


@pytest.mark.parametrize("format", ["safetensors", "parquet"])
def test_shard_of_other_content_is_named(format: str, tmp_path: Path) -> None:
    store = written(tmp_path, format=format)
    file = tmp_path / store.manifest.shards[1].file
    file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(Failure, match=rf"{file.name}: this shard is damaged"):
        store.read_shard(1, ["a"])


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
