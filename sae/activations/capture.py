"""Capturing: tokens go through the subject model, activations go into a store.

Shapes: S sequences of C tokens, D dimensions of an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sae.activations.model import HookPoint, read_activations
from sae.activations.store import Manifest, Store, StoreWriter
from sae.config import SweepableConfig
from sae.corpus.tokens import TokenSet


class ActivationsConfig(SweepableConfig):
    """Which activations, and how they are stored."""

    hook_points: list[str] = Field(
        default=["model.layers.1"],
        min_length=1,
        description="Module paths: a module's output, or with `.input` behind it its input.",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(default="float16", description="Of the stored activations.")
    batch_size: int = Field(default=32, gt=0, description="Sequences in one forward pass.")
    shard_mb: int = Field(default=64, gt=0, description="About how large a shard may be, in megabytes.")
    seed: int = Field(default=0, ge=0, description="Decides the order of the training rows.")


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

    Training rows leave out special tokens and are shuffled over the split. Held-out rows are whole sequences in order.

    Args:
        model: the subject.
        tokens: the split's sequences.
        config: hook points and format.
        directory: working folder; it holds the finished store on return.
        split: `train` or `held_out`.
        inputs: hashes of all that goes in, for the manifest.
        progress: called with the number of rows written since the last call.
    """
    if (directory / "manifest.json").exists():  # written last: this split was finished before
        (directory / "progress.json").unlink(missing_ok=True)
        manifest = Store(directory).manifest
        progress(manifest.rows)
        return manifest
    device = next(model.parameters()).device
    points = [HookPoint(model, name) for name in dict.fromkeys(config.hook_points)]
    probe = read_activations(model, points, tokens.tokens_SC[:1].to(device))
    sequential = split == "held_out"
    kept_SC = torch.ones_like(tokens.tokens_SC, dtype=torch.bool) if sequential else ~tokens.special_SC
    first_row_S = torch.cat([torch.zeros(1, dtype=torch.int64), kept_SC.sum(1).cumsum(0)])
    writer = StoreWriter(
        directory,
        split=split,
        hook_points={name: x.shape[-1] for name, x in probe.items()},
        rows=int(first_row_S[-1]),
        dtype=getattr(torch, config.dtype),
        shard_bytes=config.shard_mb * 1_000_000,
        shuffle_seed=None if sequential else config.seed,
        context=tokens.tokens_SC.shape[1] if sequential else None,
    )
    done = writer.resume()
    progress(int(first_row_S[done]))
    batches_between_checkpoints = 64
    for batch, start in enumerate(range(done, len(tokens.tokens_SC), config.batch_size)):
        here = slice(start, min(start + config.batch_size, len(tokens.tokens_SC)))
        kept = kept_SC[here]
        activations = read_activations(model, points, tokens.tokens_SC[here].to(device))
        origin = {"document": tokens.document_SC, "position": tokens.position_SC, "token": tokens.tokens_SC}
        writer.write(int(first_row_S[start]), _rows(activations, kept), _rows({k: v[here] for k, v in origin.items()}, kept))
        if (batch + 1) % batches_between_checkpoints == 0:
            writer.checkpoint(here.stop)
        progress(int(kept.sum()))
    special = tokens.tokens_SC[tokens.special_SC & kept_SC].unique()
    return writer.finish(inputs, special.tolist())


def _rows(values: dict[str, Tensor], kept_SC: Tensor) -> dict[str, Tensor]:
    return {name: value[kept_SC.to(value.device)] for name, value in values.items()}
