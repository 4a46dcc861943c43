"""The activation store: a directory per split, with shards of rows and a manifest. Needs no language model to be read.

A row is one token's activations at every hook point. A shard is a safetensors or Parquet file with one column [rows, D]
for each hook point (and, where activations are kept in 8 bits, a column of scales), and `document`, `position` and `token`
[rows] that tell where each row came from; `document` is -1 for special tokens, which only stores in sequence keep.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from sae.activations.files import file_sha256, read_columns, replace_file
from sae.activations.shards import OpenShard
from sae.config import Failure, InputError, nearest_name

SCHEMA = 2
MANIFEST = "manifest.json"
STATISTICS = "statistics.safetensors"


@dataclass(frozen=True)
class Shard:
    """One file of a store."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Norms:
    """Euclidean norms of a hook point's activations over the whole split."""

    mean: float
    rms: float
    max: float


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    Attributes:
        split: `train` or `held_out`.
        hook_points: width of each, by name.
        dtype: of the activations: float32, float16, bfloat16, int8 or float8.
        format: of the shards: safetensors or parquet.
        rows: number of them.
        left_out: rows that a filter dropped.
        shuffle_seed: seed of the shuffle over the whole split, or None where rows stay in sequence.
        context: length of the sequences where rows stay in sequence, else None.
        norms: by hook point.
        inputs: hashes of all that went in.
        about: the settings of the capture, for who wants to know.
    """

    split: str
    hook_points: dict[str, int]
    dtype: str
    format: str
    rows: int
    left_out: int
    shuffle_seed: int | None
    context: int | None
    norms: dict[str, Norms]
    shards: list[Shard]
    inputs: dict[str, str]
    about: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def save(self, directory: Path) -> None:
        """Write it into a store's directory."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        replace_file(directory / MANIFEST, lambda fresh: fresh.write_text(text), len(text))

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read it.

        Raises:
            InputError: there is none, or one of another schema.
            Failure: it is damaged.
        """
        path = directory / MANIFEST
        try:
            data: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError("this directory holds no activation store", where=str(directory), expected=MANIFEST) from None
        except ValueError as error:
            raise Failure(f"the manifest is damaged: {error}", where=str(path)) from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else data
            raise InputError("this store has another schema; capture it again", where=str(path), found=found, expected=SCHEMA)
        try:
            shards = [Shard(**shard) for shard in data["shards"]]
            norms = {name: Norms(**norm) for name, norm in data["norms"].items()}
            return cls(**data | {"shards": shards, "norms": norms})
        except (KeyError, TypeError, AttributeError) as error:
            raise Failure(f"the manifest is damaged: {error}", where=str(path)) from None


class Store:
    """A finished store, for reading. Opening it reads the manifest and looks at the files' sizes.

    Raises:
        InputError: the directory holds no store, or one of another schema.
        Failure: the manifest is damaged, or a shard is missing or cut off.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = Manifest.load(self.directory)
        for shard in self.manifest.shards:
            path = self.directory / shard.file
            if not path.exists():
                raise Failure("a shard of this store is missing", where=str(path))
            if (size := path.stat().st_size) != shard.bytes:
                raise Failure("this shard is damaged: it has another size", where=str(path), found=size, expected=shard.bytes)

    def open_shard(self, index: int, names: Sequence[str]) -> OpenShard:
        """Columns of one shard. Names are hook points, or `document`, `position`, `token`."""
        return OpenShard(self.directory / self.manifest.shards[index].file, self.manifest.dtype, names)

    def read_shard(self, index: int, names: Sequence[str]) -> dict[str, Tensor]:
        """The same columns, decoded: of safetensors in floating point they stay on the disk until they are used."""
        shard = self.open_shard(index, names)
        return {name: shard.column(name) for name in names}

    def mean(self, hook_point: str) -> Tensor:
        """Mean activation [D] of the split."""
        return self._statistic(hook_point, "mean")

    def geometric_median(self, hook_point: str) -> Tensor:
        """Geometric median [D] of up to 8,192 rows, in equal distances over the split."""
        return self._statistic(hook_point, "geometric_median")

    def _statistic(self, hook_point: str, name: str) -> Tensor:
        path = self.directory / STATISTICS
        try:
            return read_columns(path)[f"{hook_point}/{name}"]
        except (Failure, KeyError) as error:
            raise Failure("the statistics of this store are missing or damaged", where=str(path), found=str(error)) from None

    def match_hook_points(self, patterns: Sequence[str], where: str) -> list[str]:
        """The store's hook points of these names; `*` stands for any part of a name between two dots.

        Raises:
            InputError: a name or pattern fits none; the nearest is named.
        """
        return match_names(patterns, self.manifest.hook_points, where, "the store has no such hook point")

    def damaged_shards(self) -> list[str]:
        """Files whose checksum is not the manifest's. Reads everything."""
        return [s.file for s in self.manifest.shards if file_sha256(self.directory / s.file) != s.sha256]


def match_names(patterns: Sequence[str], known: Iterable[str], where: str, message: str) -> list[str]:
    """The known names that fit patterns, each once; those of one pattern in their own order.

    Raises:
        InputError: a pattern fits none; it has this message, and the nearest name.
    """
    known = list(known)
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [name for name in known if fits(pattern, name)]
        if not fitting:
            nearest = nearest_name(pattern, known)
            raise InputError(message, where=where, found=pattern, expected=", ".join(known), nearest=nearest)
        found |= dict.fromkeys(fitting)
    return list(found)


def fits(pattern: str, name: str) -> bool:
    """Whether a dotted name fits a pattern part by part: in each, `*`, `?` and `[…]` are as in file names."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
