"""Someone's own activations become a store with one call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from sae.activations.own import Given, store_tensors
from sae.activations.store import Store
from sae.config import Failure, InputError
from tests.sae.activations.stores import contents

ROWS = 3000
X = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))


def files(folder: Path, kind: str) -> Given:
    folder.mkdir(exist_ok=True)
    if kind == "tensor":
        return X
    if kind == "array":
        return X.numpy()
    if kind == "npy":
        np.save(folder / "x.npy", X.numpy())
        return folder / "x.npy"
    if kind == "safetensors":
        save_file({"x": X, "y": Y}, folder / "x.safetensors")
        return str(folder / "x.safetensors")
    if kind == "parquet":
        pd.DataFrame({"text": ["a"] * ROWS, "x": list(X.numpy())}).to_parquet(folder / "x.parquet")
        return folder / "x.parquet"
    np.save(folder / "1.npy", X[:1000].numpy())
    save_file({"anything": X[1000:].contiguous()}, folder / "2.safetensors")
    return [folder / "1.npy", folder / "2.safetensors"]


@pytest.mark.parametrize("kind", ["tensor", "array", "npy", "safetensors", "parquet", "several"])
def test_rows_are_all_there_whatever_they_come_in(kind: str, tmp_path: Path) -> None:
    manifest = store_tensors({"x": files(tmp_path / "given", kind)}, tmp_path / "store", dtype="float32", shard_mb=1)
    rows = contents(Store(tmp_path / "store"))
    assert manifest.rows == ROWS
    assert torch.equal(rows["x"], X[rows["position"].long()])
    assert sorted(rows["position"].tolist()) == list(range(ROWS))
    assert rows["position"].tolist() != list(range(ROWS))  # shuffled


def test_hook_points_are_aligned_and_origins_kept(tmp_path: Path) -> None:
    origin = {"document": torch.arange(ROWS) // 7, "token": torch.arange(ROWS) % 13}
    store_tensors({"x": X, "y": Y}, tmp_path, origin=origin, dtype="float32")
    rows = contents(Store(tmp_path))
    number = rows["position"].long()
    assert torch.equal(rows["x"], X[number])
    assert torch.equal(rows["y"], Y[number])
    assert torch.equal(rows["document"].long(), number // 7)
    assert torch.equal(rows["token"].long(), number % 13)


def test_several_parts_and_shards_and_the_same_bytes_again(tmp_path: Path) -> None:
    x = torch.randn(9000, 64, generator=torch.Generator().manual_seed(2))
    one = store_tensors({"x": x}, tmp_path / "1", dtype="float32", shard_mb=1)
    assert len(one.shards) == 3
    assert store_tensors({"x": x}, tmp_path / "2", dtype="float32", shard_mb=1) == one
    assert store_tensors({"x": x}, tmp_path / "3", dtype="float32", shard_mb=1, seed=1).shards != one.shards


def test_no_library_of_language_models_is_imported() -> None:
    code = "import sys, sae.activations.own, sae.activations.loader; "
    code += "print({'transformers', 'datasets', 'tokenizers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"differ in their number of rows.*'x': 3000, 'y': 10"):
        store_tensors({"x": X, "y": Y[:10]}, tmp_path / "store")
    with pytest.raises(InputError, match=r"x: rows are tensors \[rows, dimensions\].*3000"):
        store_tensors({"x": X[:, 0]}, tmp_path / "store")
    with pytest.raises(InputError, match=r"no such tensor.*found z, expected x, y"):
        store_tensors({"z": files(tmp_path, "safetensors")}, tmp_path / "store")
    with pytest.raises(InputError, match=r"an \.npy, \.safetensors or \.parquet file .*rows\.pt"):
        store_tensors({"x": tmp_path / "rows.pt"}, tmp_path / "store")
    with pytest.raises(InputError, match="no such file"):
        store_tensors({"x": tmp_path / "rows.npy"}, tmp_path / "store")
    with pytest.raises(InputError, match="at least one"):
        store_tensors({}, tmp_path / "store")
    with pytest.raises(InputError, match="Parquet has no such type"):
        store_tensors({"x": X}, tmp_path / "store", format="parquet", dtype="bfloat16")
    assert not (tmp_path / "store").exists()
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(Failure, match=r"x\.parquet: this file is damaged"):
        store_tensors({"x": tmp_path / "x.parquet"}, tmp_path / "store")
