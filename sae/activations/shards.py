"""One shard on disk: a safetensors file that is laid out at full size and filled in place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.config import Failure

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32"}
_PARTIAL = ".partial"


class ShardFile:
    """A shard that is being written. It bears its final name only once it is whole.

    The columns' bytes are mapped; a column of type bfloat16, which NumPy lacks, is mapped as 16-bit integers.

    Args:
        path: final name.
        columns: data type and width of each column; width None for one number a row.
        rows: number of rows.

    Raises:
        Failure: the disk is full.
    """

    def __init__(self, path: Path, columns: dict[str, tuple[torch.dtype, int | None]], rows: int) -> None:
        self.path, self.rows = path, rows
        self._partial = path.with_name(path.name + _PARTIAL)
        header: dict[str, dict[str, object]] = {}
        starts: dict[str, int] = {}
        offset = 0
        columns = dict(sorted(columns.items(), key=lambda column: -column[1][0].itemsize))  # each is aligned to its type
        for name, (dtype, width) in columns.items():
            starts[name] = offset
            shape = (rows,) if width is None else (rows, width)
            size = rows * (width or 1) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format wants the data aligned
        start = 8 + len(text)
        head = len(text).to_bytes(8, "little") + text
        if not self._partial.exists() and path.exists():
            path.rename(self._partial)  # a writer was killed while it closed its shards: this one holds its earlier rows
        if not _laid_out(self._partial, head, start + offset):
            self._allocate(head, start + offset)
        self._columns: dict[str, NDArray[np.signedinteger]] = {}
        for name, (dtype, width) in columns.items():
            self._columns[name] = np.memmap(
                self._partial,
                dtype=f"i{dtype.itemsize}",
                mode="r+",
                offset=start + starts[name],
                shape=(rows,) if width is None else (rows, width),
            )

    def write(self, slots: NDArray[np.int64], columns: dict[str, Tensor]) -> None:
        """Write rows into these slots."""
        for name, values in columns.items():
            bits = {2: torch.int16, 4: torch.int32}[values.element_size()]
            self._columns[name][slots] = values.contiguous().view(bits).cpu().numpy()

    def flush(self) -> None:
        """Make what was written safe on the disk."""
        for column in self._columns.values():
            column.flush()  # type: ignore[attr-defined]  # it is a memmap, which NDArray hides

    def close(self) -> Path:
        """Flush, and give the file its final name."""
        self.flush()
        self._columns.clear()
        self._partial.rename(self.path)
        return self.path

    def _allocate(self, header: bytes, size: int) -> None:
        try:
            with self._partial.open("wb") as file:
                file.write(header)
                if hasattr(os, "posix_fallocate"):
                    # Reserves the blocks now: writing to a mapped hole on a full disk would end the process by SIGBUS.
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._partial.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Failure(
                    "the disk is full", where=str(self.path), expected=f"{size / 1e6:,.0f} MB more for this shard"
                ) from None
            raise


def _laid_out(path: Path, head: bytes, size: int) -> bool:
    """Whether a shard of this layout lies here. Its head is compared too: a writer may be killed while it lays one out."""
    if not path.exists() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return file.read(len(head)) == head


def file_sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
