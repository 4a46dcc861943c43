"""A capture in a process of its own, which tells on its standard output where it is, a letter at a time.

`b` after each batch, `w` at each point within the writing of a file (a part, a shard, its record, the statistics, the
manifest), `d` when the store is done. With `slow` it dawdles at each letter, so that whoever kills it can choose where.

Run as ``python -m tests.sae.activations.killable DIRECTORY [slow]``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sae.activations import files
from sae.activations.capture import ActivationsConfig, capture
from sae.activations.layout import Layout
from sae.config import parse_config, seeded_global_rng
from sae.corpus.tokens import TokenSet

SEQUENCES, CONTEXT = 120, 10
CONFIG = {"hook_points": ["layers.0", "layers.1.input"], "dtype": "float32", "batch_size": 4}


class Model(nn.Module):
    """Stands where a language model stands; made in a moment."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x


def tokens() -> TokenSet:
    tokens_SC = torch.randint(0, 50, (SEQUENCES, CONTEXT), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    document_SC = torch.arange(SEQUENCES, dtype=torch.int32)[:, None].expand(SEQUENCES, CONTEXT).clone()
    document_SC[:, 0] = -1
    position_SC = torch.arange(CONTEXT, dtype=torch.int32).expand(SEQUENCES, CONTEXT).contiguous()
    return TokenSet(tokens_SC, document_SC, position_SC, [f"doc{i}" for i in range(SEQUENCES)], [], complete=True)


def main(directory: Path, *, slow: bool) -> None:
    def tell(letter: bytes) -> None:
        os.write(1, letter)
        if slow:
            time.sleep(0.01)

    def telling(function: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **named: Any) -> Any:
            tell(b"w")
            result = function(*args, **named)
            tell(b"w")
            return result

        return told

    for owner, name in ((files, "save_file"), (files.os, "fsync"), (Path, "rename"), (Path, "write_text")):
        setattr(owner, name, telling(getattr(owner, name)))
    torch.set_num_threads(1)
    Layout.shard_rows = 150  # type: ignore[assignment, method-assign]  # eight shards, and about as many parts
    with seeded_global_rng(0, "model"):
        model = Model().eval()
    config = parse_config(ActivationsConfig, CONFIG)
    capture(model, tokens(), config, directory, split="train", inputs={"tokens": "abc"}, progress=lambda _: tell(b"b"))
    tell(b"d")


if __name__ == "__main__":
    main(Path(sys.argv[1]), slow="slow" in sys.argv)
