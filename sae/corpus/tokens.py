"""Sequences of tokens: making them of documents, and keeping them on disk.

Shapes: S sequences of C tokens (the context).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.config import InputError, SweepableConfig
from sae.corpus.documents import Document
from sae.corpus.encoding import Encoder, padding_id, special_ids
from sae.corpus.packing import PACKERS, Packer, Packing
from sae.corpus.split import is_held_out

SPLITS = ("train", "held_out")


class TokensConfig(SweepableConfig):
    """How much text, and in what pieces."""

    context: int = Field(default=128, ge=2, description="Tokens in a sequence, the beginning-of-sequence token included.")
    train: int = Field(default=1_000_000, gt=0, description="Tokens to train on, special tokens not counted.")
    held_out: int = Field(default=100_000, gt=0, description="Tokens to evaluate on, special tokens not counted.")
    bos: bool = Field(default=True, description="Begin every sequence with the tokenizer's BOS token, where it has one.")
    packing: Packing = Field(
        default="pack",
        description="`pack` joins documents end to end; `truncate` keeps the beginning of each as one sequence; "
        "`pad` gives each document sequences of its own. The last two pad what is too short.",
    )
    exclude: list[str | int] = Field(
        default=[],
        description="More tokens to treat as special, by id or by a text that is one token: left out of training and of figures.",
    )


@dataclass
class TokenSet:
    """The sequences of one split.

    Attributes:
        tokens_SC: token ids.
        document_SC: number of the document that each token is from, -1 for special tokens and padding.
        position_SC: place of each token in its document.
        documents: names, by number.
        special_ids: ids of the special tokens; their positions are no training rows.
        complete: whether the corpus held as many tokens as were wanted.
        lengths_S: tokens of each sequence, the padding on its right left out; None where every sequence is full.
    """

    tokens_SC: Tensor
    document_SC: Tensor
    position_SC: Tensor
    documents: list[str]
    special_ids: list[int]
    complete: bool
    lengths_S: Tensor | None = None

    @property
    def special_SC(self) -> Tensor:
        """Mask of the special tokens, and of padding: no training rows, and in no figure."""
        return self.document_SC < 0

    @property
    def attention_SC(self) -> Tensor | None:
        """Mask of what is no padding, for the model's forward pass; None where every sequence is full."""
        return None if self.lengths_S is None else torch.arange(self.tokens_SC.shape[1]) < self.lengths_S[:, None]

    def save(self, directory: Path) -> None:
        """Write into an existing directory."""
        arrays = {"tokens": self.tokens_SC, "document": self.document_SC, "position": self.position_SC}
        if self.lengths_S is not None:
            arrays["length"] = self.lengths_S
        save_file({name: array.to(torch.int32).contiguous() for name, array in arrays.items()}, directory / "tokens.safetensors")
        about = {k: v for k, v in asdict(self).items() if not k.endswith(("_SC", "_S"))}
        digest = hashlib.sha256((directory / "tokens.safetensors").read_bytes()).hexdigest()
        about |= {"sequences": len(self.tokens_SC), "context": self.tokens_SC.shape[1], "sha256": digest}
        (directory / "tokens.json").write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> TokenSet:
        """Read what `save` wrote.

        Raises:
            InputError: the directory holds no tokens, or damaged ones.
        """
        file = directory / "tokens.json"
        try:
            about = json.loads(file.read_text())
            file = directory / "tokens.safetensors"
            arrays = load_file(file)
        except FileNotFoundError as error:
            raise InputError(
                "there are no tokens here", where=str(error.filename or directory), expected="a finished tokens stage"
            ) from None
        except (ValueError, SafetensorError) as error:
            raise InputError(f"these tokens are damaged: {error}", where=str(file)) from None
        return cls(
            arrays["tokens"],
            arrays["document"],
            arrays["position"],
            about["documents"],
            about["special_ids"],
            about["complete"],
            arrays.get("length"),
        )


def build_token_sets(
    documents: Iterable[Document],
    tokenizer: Any,
    config: TokensConfig,
    held_out_share: float,
    progress: Callable[[int], None] = lambda tokens: None,
) -> dict[str, TokenSet]:
    """Tokenize and pack documents into both splits, reading no further than both are full.

    Raises:
        InputError: a split gets no sequence at all; a document or an excluded token does not fit the tokenizer.
    """
    special, pad = special_ids(tokenizer, config.exclude), padding_id(tokenizer)
    bos, eos = tokenizer.bos_token_id if config.bos else None, tokenizer.eos_token_id
    packers = {
        split: PACKERS[config.packing](
            context=config.context, wanted=getattr(config, split), special_ids=special, bos=bos, eos=eos, pad=pad
        )
        for split in SPLITS
    }
    encode = Encoder(tokenizer, bos)
    seen = 0
    for batch in _batches(documents, 64):
        seen += len(batch)
        # A split that is full needs no more of its documents.
        wanted = [(d, packers[SPLITS[is_held_out(d.name, held_out_share)]]) for d in batch]
        wanted = [(document, packer) for document, packer in wanted if not packer.full]
        for (document, packer), ids in zip(wanted, encode([document for document, _ in wanted]), strict=True):
            progress(packer.add(document.name, ids))
        if all(packer.full for packer in packers.values()):
            break
    if not seen:
        raise InputError("the corpus is empty: it holds no document with text", where="corpus")
    for split, packer in packers.items():
        if packer.empty:
            lacks = f"does not fill one sequence of {config.context} tokens" if config.packing == "pack" else "gets no document"
            raise InputError(
                f"the corpus is too small: the {split} split {lacks}",
                where="corpus",
                found=f"{seen} documents in all",
                expected="more text, a shorter tokens.context, or another corpus.held_out",
            )
    return {split: _token_set(packer, special) for split, packer in packers.items()}


def _token_set(packer: Packer, special: list[int]) -> TokenSet:
    made = packer.sequences()
    return TokenSet(
        made.tokens_SC, made.document_SC, made.position_SC, packer.documents, special, packer.full, lengths_S=made.lengths_S
    )


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch
