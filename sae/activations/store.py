"""The activation store: a directory per split, with shards of rows and a manifest. Needs no language model to be read.

A row is one token's activations at every hook point. A shard is a safetensors file with one tensor [rows, D] for each hook
point, and `document`, `position` and `token` [rows] that tell where each row came from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.activations.permutation import Permutation
from sae.activations.shards import ShardFile, file_sha256
from sae.config import Failure, InputError, nearest_name

SCHEMA = 1
ORIGIN = ("document", "position", "token")
STATISTICS = "statistics.safetensors"


@dataclass(frozen=True)
class Shard:
    """One file of a store."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    Attributes:
        split: `train` or `held_out`.
        hook_points: width of each, by name.
        dtype: of the activations.
        rows: number of them.
        shuffle_seed: seed of the shuffle over the whole split, or None where rows stay in sequence.
        context: length of the sequences where rows stay in sequence, else None.
        mean_norm: mean Euclidean norm by hook point.
        inputs: hashes of all that went in.
        special_tokens: ids of tokens whose rows are kept in place in sequences and are no activations to learn from.
    """

    split: str
    hook_points: dict[str, int]
    dtype: str
    rows: int
    shuffle_seed: int | None
    context: int | None
    mean_norm: dict[str, float]
    shards: list[Shard]
    inputs: dict[str, str]
    special_tokens: list[int] = field(default_factory=list)
    schema: int = SCHEMA


class StoreWriter:
    """Writes a store in a working folder; rows come in any order, each to the place that its number gives.

    Shards are laid out at their full size at once and filled in place, so that nothing is copied or sorted again and
    memory stays bounded by the batch. Rows that are written twice get the same bytes twice, so a writer that was
    killed begins again at the last `checkpoint`.

    Args:
        directory: working folder; it becomes the store when `finish` returns.
        split: `train` or `held_out`.
        hook_points: width of each, by name.
        rows: number of rows that will come.
        dtype: to store activations in.
        shard_bytes: about how large a shard may be.
        shuffle_seed: shuffle rows over the whole split; None keeps them in sequence.
        context: length of the sequences, where they are kept.
    """

    def __init__(
        self,
        directory: Path,
        *,
        split: str,
        hook_points: dict[str, int],
        rows: int,
        dtype: torch.dtype,
        shard_bytes: int,
        shuffle_seed: int | None = None,
        context: int | None = None,
    ) -> None:
        self.directory, self.split, self.hook_points = directory, split, hook_points
        self.rows, self.dtype, self.shuffle_seed, self.context = rows, dtype, shuffle_seed, context
        self._place = None if shuffle_seed is None else Permutation(rows, shuffle_seed, "activations", split)
        self._sums = {name: torch.zeros(width, dtype=torch.float64) for name, width in hook_points.items()}
        self._norms = dict.fromkeys(hook_points, 0.0)
        directory.mkdir(parents=True, exist_ok=True)
        row_bytes = sum(hook_points.values()) * dtype.itemsize + 12
        count = max(1, -(-rows * row_bytes // shard_bytes))
        self._shard_rows = -(-rows // count)
        columns: dict[str, tuple[torch.dtype, int | None]] = {name: (dtype, width) for name, width in hook_points.items()}
        columns |= {name: (torch.int32, None) for name in ORIGIN}
        self._shards = [
            ShardFile(directory / f"shard-{i:05d}.safetensors", columns, min(self._shard_rows, rows - i * self._shard_rows))
            for i in range(-(-rows // self._shard_rows))
        ]

    def resume(self) -> int:
        """Units of work that an earlier writer in this folder had finished; 0 for a fresh one."""
        path = self.directory / "progress.json"
        if not path.exists():
            return 0
        progress = json.loads(path.read_text())
        self._sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in progress["sums"].items()}
        self._norms = progress["norms"]
        done: int = progress["done"]
        return done

    def write(self, first_row: int, activations: dict[str, Tensor], origin: dict[str, Tensor]) -> None:
        """Write consecutive rows.

        Args:
            first_row: number of the first one.
            activations: [n, D] by hook point.
            origin: `document`, `position` and `token`, [n] each.

        Raises:
            Failure: an activation is not finite in the stored data type.
        """
        count = len(origin["token"])
        numbers = np.arange(first_row, first_row + count, dtype=np.int64)
        places = numbers if self._place is None else self._place(numbers)
        columns: dict[str, Tensor] = {name: origin[name].to(torch.int32) for name in ORIGIN}
        for name, x in activations.items():
            stored = x.to(self.dtype).cpu()  # sums are in float64, which not every device has
            if not torch.isfinite(stored).all():
                raise Failure(
                    f"activations overflow {self.dtype} or are not finite",
                    where=name,
                    expected="activations.dtype: bfloat16 or float32",
                )
            columns[name] = stored
            self._sums[name] += stored.double().sum(0)
            self._norms[name] += float(torch.linalg.vector_norm(stored.double(), dim=-1).sum())
        shard_of, slot = places // self._shard_rows, places % self._shard_rows
        for index in np.unique(shard_of):
            chosen = np.flatnonzero(shard_of == index)
            self._shards[index].write(slot[chosen], {name: column[torch.from_numpy(chosen)] for name, column in columns.items()})

    def checkpoint(self, done: int) -> None:
        """Make what was written so far safe, and remember that `done` units of work are finished."""
        for shard in self._shards:
            shard.flush()
        sums = {name: total.tolist() for name, total in self._sums.items()}  # repr keeps a float64 whole
        progress = {"done": done, "sums": sums, "norms": self._norms}
        _replace(self.directory / "progress.json", lambda path: path.write_text(json.dumps(progress)))

    def finish(self, inputs: dict[str, str], special_tokens: Sequence[int] = ()) -> Manifest:
        """Close the shards, add statistics and manifest, and drop what only resuming needed."""
        shards = []
        for shard in self._shards:
            path = shard.close()
            shards.append(Shard(path.name, shard.rows, file_sha256(path)))
        save_file(
            {f"{name}/mean": (total / self.rows).float() for name, total in self._sums.items()}, self.directory / STATISTICS
        )
        manifest = Manifest(
            split=self.split,
            hook_points=self.hook_points,
            dtype=str(self.dtype).removeprefix("torch."),
            rows=self.rows,
            shuffle_seed=self.shuffle_seed,
            context=self.context,
            mean_norm={name: total / self.rows for name, total in self._norms.items()},
            shards=shards,
            inputs=inputs,
            special_tokens=list(special_tokens),
        )
        _replace(self.directory / "manifest.json", lambda path: path.write_text(json.dumps(asdict(manifest), indent=2) + "\n"))
        (self.directory / "progress.json").unlink(missing_ok=True)
        return manifest


class Store:
    """A finished store, for reading. Shards are mapped, so that opening one costs nothing.

    Raises:
        InputError: the directory holds no store, or one of another schema.
        Failure: the manifest is damaged, or a shard is missing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / "manifest.json"
        try:
            data: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError("this directory holds no activation store", where=str(directory), expected="manifest.json") from None
        except json.JSONDecodeError as error:
            raise Failure(f"the manifest is damaged: {error}", where=str(path)) from None
        if data.get("schema") != SCHEMA:
            raise InputError("this store has another schema", where=str(path), found=data.get("schema"), expected=SCHEMA)
        try:
            self.manifest = Manifest(**data | {"shards": [Shard(**shard) for shard in data["shards"]]})
        except (KeyError, TypeError) as error:
            raise Failure(f"the manifest is damaged: {error}", where=str(path)) from None
        for shard in self.manifest.shards:
            if not (directory / shard.file).exists():
                raise Failure("a shard of this store is missing", where=str(directory / shard.file))

    def read_shard(self, index: int, names: list[str]) -> dict[str, Tensor]:
        """Columns of one shard, mapped from disk. Names are hook points, or `document`, `position`, `token`."""
        path = self.directory / self.manifest.shards[index].file
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise Failure(f"this shard is damaged: {error}", where=str(path)) from None

    def mean(self, hook_point: str) -> Tensor:
        """Mean activation [D] of the split."""
        path = self.directory / STATISTICS
        try:
            mean_D: Tensor = load_file(path)[f"{hook_point}/mean"]
        except (SafetensorError, OSError) as error:
            raise Failure(f"the statistics of this store are missing or damaged: {error}", where=str(path)) from None
        return mean_D

    def check_hook_point(self, hook_point: str, where: str) -> None:
        """Refuse a hook point that the store does not hold.

        Raises:
            InputError: naming the nearest.
        """
        known = self.manifest.hook_points
        if hook_point not in known:
            raise InputError(
                "the store has no such hook point",
                where=where,
                found=hook_point,
                expected=", ".join(known),
                nearest=nearest_name(hook_point, known),
            )

    def damaged_shards(self) -> list[str]:
        """Files whose checksum is not the manifest's. Reads everything."""
        return [s.file for s in self.manifest.shards if file_sha256(self.directory / s.file) != s.sha256]


def _replace(path: Path, write: Any) -> None:
    """Write a file under another name, sync it, and rename it into place."""
    fresh = path.with_name(path.name + ".new")
    write(fresh)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.rename(path)
