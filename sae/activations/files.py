"""Files of a store: columns of rows, as safetensors or as Parquet, written whole and renamed into place.

Shapes: N rows, D dimensions of an activation.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae.config import Failure

Format = Literal["safetensors", "parquet"]
Columns = dict[str, Tensor]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_columns(path: Path, columns: Columns) -> None:
    """Write columns to a file of the format that its suffix names; it bears its name only once it is whole.

    Raises:
        Failure: the disk is full.
    """
    size = sum(column.numel() * column.element_size() for column in columns.values())
    write = _write_parquet if path.suffix == ".parquet" else _write_safetensors
    replace_file(path, lambda fresh: write(fresh, columns), size)


def read_columns(path: Path, names: list[str] | None = None) -> Columns:
    """Columns of a file. Those of safetensors stay on the disk until they are used.

    Args:
        path: the file.
        names: which columns; all if left out.

    Raises:
        Failure: the file is missing or damaged.
    """
    try:
        return _read_parquet(path, names) if path.suffix == ".parquet" else _read_safetensors(path, names)
    except FileNotFoundError:
        raise Failure("a shard of this store is missing", where=str(path)) from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise Failure(f"this shard is damaged: {error}", where=str(path)) from None


def replace_file(path: Path, write: Callable[[Path], object], size: int | None = None) -> None:
    """Write a file under a name of its own, sync it, and rename it into place, so that two writers do no harm.

    Args:
        path: final name.
        write: called with the name to write to.
        size: about how many bytes, for the error.

    Raises:
        Failure: the disk is full; what was there before is kept.
    """
    fresh = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        with _full_disk(path, size):
            write(fresh)
            with fresh.open("rb+") as file:
                os.fsync(file.fileno())
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)


def drop_leftovers(directory: Path) -> None:
    """Remove what killed writers left half written, safetensors' own `.tmpXXXXXX` too."""
    for path in directory.glob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.\w+|\.tmp\w{6}", path.name):
            path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _full_disk(path: Path, size: int | None) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else None
        if (match := re.search(r"os error (\d+)", str(error))) is not None:
            code = int(match[1])
        if code not in _FULL:
            raise
        raise Failure(
            "the disk is full; what is whole is kept, and the next run goes on from there",
            where=str(path),
            expected=None if size is None else f"{size / 1e6:,.1f} MB more for this file",
        ) from None


def _write_safetensors(path: Path, columns: Columns) -> None:
    save_file({name: column.contiguous() for name, column in columns.items()}, path)


def _read_safetensors(path: Path, names: list[str] | None) -> Columns:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}


def _write_parquet(path: Path, columns: Columns) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name, column in columns.items():
        flat = pa.array(column.contiguous().view(-1).numpy())
        arrays[name] = flat if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
    table = pa.table(arrays)
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False, row_group_size=len(table))


def _read_parquet(path: Path, names: list[str] | None) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=names, memory_map=True)
    columns = {}
    for name in table.column_names if names is None else names:
        array = table.column(name).combine_chunks()
        is_list = pa.types.is_fixed_size_list(array.type)
        values = torch.from_numpy((array.flatten() if is_list else array).to_numpy(zero_copy_only=False).copy())
        columns[name] = values.view(-1, array.type.list_size) if is_list else values
    return columns
