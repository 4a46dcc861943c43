"""Capturing: tokens go through the subject model, activations go into a store.

Shapes: S sequences of C tokens, D dimensions of an activation.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from sae.activations.encoding import NOT_IN_PARQUET, StoredType
from sae.activations.files import Format
from sae.activations.layout import Layout
from sae.activations.parts import PartBuilder
from sae.activations.reading import Reader
from sae.activations.store import MANIFEST, Manifest, Store
from sae.activations.writer import PARTS, StoreWriter
from sae.config import SweepableConfig
from sae.corpus.tokens import TokenSet


class ActivationsConfig(SweepableConfig):
    """Which activations, and how they are stored."""

    hook_points: list[str] = Field(
        default=["model.layers.1"],
        min_length=1,
        description="Module paths: a module's output, or with `.input` behind it its input. `model.layers.*` means every layer.",
    )
    store: Literal["disk", "stream"] = Field(
        default="disk", description="`stream` keeps no training rows: the train stage runs the model itself."
    )
    format: Format = Field(default="safetensors", description="Of the shards; other tools read Parquet.")
    dtype: StoredType = Field(default="float16", description="Of the stored activations; 8 bits have a scale for each row.")
    batch_size: int = Field(default=32, gt=0, description="Sequences in one forward pass.")
    autocast: Literal["bfloat16", "float16"] | None = Field(default=None, description="Run the model in mixed precision.")
    outlier_norm: float | None = Field(
        default=None, gt=1, description="Leave out training rows whose norm at any hook point is over so many times the median."
    )
    shard_mb: int = Field(default=64, gt=0, description="About how large a shard is, in megabytes; memory holds two or three.")
    seed: int = Field(default=0, ge=0, description="Decides the order of the training rows.")
    mix_rows: int = Field(default=131_072, gt=0, description="Rows that a stream shuffles at a time; they are held in memory.")

    @model_validator(mode="after")
    def _fits_together(self) -> ActivationsConfig:
        if self.format == "parquet" and self.dtype in NOT_IN_PARQUET:
            raise ValueError(f"dtype: Parquet has no {self.dtype}; use float32, float16 or int8, or format: safetensors")
        if self.store == "stream" and self.outlier_norm is not None:
            raise ValueError("outlier_norm: a stream can't leave rows out, since a batch's number would not tell where to go on")
        return self


class Capture:
    """The capture of one split.

    Training rows leave out special tokens and are shuffled over the split. Held-out rows are whole sequences in order. The
    work is cut into parts, a pure function of the settings; any number of processes does them, and the store is the same
    byte for byte.

    Args:
        model: the subject.
        tokens: the split's sequences.
        config: hook points and format.
        directory: working folder; it holds the finished store in the end.
        split: `train` or `held_out`.
        inputs: hashes of all that goes in, for the manifest.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: TokenSet,
        config: ActivationsConfig,
        directory: Path,
        *,
        split: str,
        inputs: dict[str, str],
    ) -> None:
        self.config, self.split, self.inputs, self.tokens = config, split, inputs, tokens
        whole = split == "held_out"
        self.reader = Reader(
            model,
            tokens,
            config.hook_points,
            whole=whole,
            autocast=config.autocast,
            outlier_norm=None if whole else config.outlier_norm,
            batch_size=config.batch_size,
        )
        self.layout = Layout(
            split=split,
            hook_points=self.reader.widths,
            rows=self.reader.rows,
            dtype=config.dtype,
            format=config.format,
            shard_bytes=config.shard_mb * 1_000_000,
            shuffle_seed=None if whole else config.seed,
            context=tokens.tokens_SC.shape[1] if whole else None,
        )
        # Whole batches in every part, so that a batch holds the same sequences whoever reads it.
        step = max(1, round(self.layout.shard_rows / tokens.tokens_SC.shape[1] / config.batch_size)) * config.batch_size
        self._bounds_S = [*range(0, len(tokens.tokens_SC), step), len(tokens.tokens_SC)]
        self.writer = StoreWriter(directory, self.layout, self.reader.first_row_S[self._bounds_S].tolist())

    @property
    def finished(self) -> bool:
        """Whether the store is there already."""
        return (self.writer.directory / MANIFEST).exists()

    def write_parts(self, progress: Callable[[int], None] = lambda rows: None, share: tuple[int, int] = (0, 1)) -> None:
        """Capture what is missing. Returns when all parts of this share are there, whoever wrote them.

        Args:
            progress: called with a number of rows whenever so many more are there.
            share: (i, n): of every n parts the one that leaves i.
        """

        def produce(part: int, builder: PartBuilder) -> None:
            sequences_S = torch.arange(self._bounds_S[part], self._bounds_S[part + 1])
            for batch_S in sequences_S.split(self.config.batch_size):
                builder.write(*self.reader.read(batch_S))
                progress(int(self.reader.first_row_S[batch_S[-1] + 1] - self.reader.first_row_S[batch_S[0]]))

        self.writer.write_parts(produce, share, progress)

    def finish(self) -> Manifest:
        """Make the store of the parts.

        Raises:
            Failure: a part is missing or damaged, or the disk is full.
        """
        keys = ("hook_points", "autocast", "outlier_norm", "batch_size")
        about: dict[str, Any] = {key: value for key, value in self.config.model_dump(mode="json").items() if key in keys}
        return self.writer.finish(self.inputs, about | {"largest_norms": self.reader.limits})


def capture(
    model: nn.Module,
    tokens: TokenSet,
    config: ActivationsConfig,
    directory: Path,
    *,
    split: str,
    inputs: dict[str, str],
    progress: Callable[[int], None] = lambda rows: None,
) -> Manifest:
    """Write the store of one split, going on where an earlier, unfinished capture in the same folder stopped.

    The arguments are those of `Capture`; `progress` is called with a number of rows whenever so many more are there.
    """
    if (directory / MANIFEST).exists():  # written last: this split was finished before
        manifest = Store(directory).manifest
        shutil.rmtree(directory / PARTS, ignore_errors=True)
        progress(manifest.rows + manifest.left_out)
        return manifest
    work = Capture(model, tokens, config, directory, split=split, inputs=inputs)
    work.write_parts(progress)
    return work.finish()
