"""Sequences of tokens: packing documents into them, and keeping them on disk.

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
from sae.corpus.split import is_held_out

SPLITS = ("train", "held_out")


class TokensConfig(SweepableConfig):
    """How much text, and in what pieces."""

    context: int = Field(default=128, ge=2, description="Tokens in a sequence, the beginning-of-sequence token included.")
    train: int = Field(default=1_000_000, gt=0, description="Tokens to train on, special tokens not counted.")
    held_out: int = Field(default=100_000, gt=0, description="Tokens to evaluate on, special tokens not counted.")
    bos: bool = Field(default=True, description="Begin every sequence with the tokenizer's BOS token, where it has one.")


@dataclass
class TokenSet:
    """The sequences of one split.

    Attributes:
        tokens_SC: token ids.
        document_SC: number of the document that each token is from, -1 for special tokens.
        position_SC: place of each token in its document.
        documents: names, by number.
        special_ids: ids of the special tokens; their positions are no training rows.
        complete: whether the corpus held as many tokens as were wanted.
    """

    tokens_SC: Tensor
    document_SC: Tensor
    position_SC: Tensor
    documents: list[str]
    special_ids: list[int]
    complete: bool

    @property
    def special_SC(self) -> Tensor:
        """Mask of the special tokens."""
        return self.document_SC < 0

    def save(self, directory: Path) -> None:
        """Write into an existing directory."""
        arrays = {"tokens": self.tokens_SC, "document": self.document_SC, "position": self.position_SC}
        save_file({name: array.to(torch.int32).contiguous() for name, array in arrays.items()}, directory / "tokens.safetensors")
        about = {k: v for k, v in asdict(self).items() if not k.endswith("_SC")}
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
            arrays["tokens"], arrays["document"], arrays["position"], about["documents"], about["special_ids"], about["complete"]
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
        InputError: a split gets no sequence at all.
    """
    packers = {split: _Packer(tokenizer, config, getattr(config, split)) for split in SPLITS}
    seen = 0
    for batch in _batches(documents, 64):
        seen += len(batch)
        # A split that is full needs no more of its documents; the others are tokenized together, which is faster.
        wanted = [(d, packers[SPLITS[is_held_out(d.name, held_out_share)]]) for d in batch]
        wanted = [(document, packer) for document, packer in wanted if not packer.full]
        if wanted:
            encoded = tokenizer([d.text for d, _ in wanted], add_special_tokens=False, verbose=False)["input_ids"]
            for (document, packer), ids in zip(wanted, encoded, strict=True):
                progress(packer.add(document.name, ids))
        if all(packer.full for packer in packers.values()):
            break
    if not seen:
        raise InputError("the corpus is empty: it holds no document with text", where="corpus")
    for split, packer in packers.items():
        if not packer.sequences:
            raise InputError(
                f"the corpus is too small: the {split} split does not fill one sequence of {config.context} tokens",
                where="corpus",
                found=f"{seen} documents in all",
                expected="more text, a shorter tokens.context, or another corpus.held_out",
            )
    return {split: packer.token_set() for split, packer in packers.items()}


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch


class _Packer:
    """Joins documents end to end, an end-of-text token after each, and cuts them into sequences that each begin with BOS."""

    def __init__(self, tokenizer: Any, config: TokensConfig, wanted: int) -> None:
        self.bos: int | None = tokenizer.bos_token_id if config.bos else None
        self.separator: int | None = tokenizer.eos_token_id
        self.special_ids = sorted(tokenizer.all_special_ids)
        self.body = config.context - (self.bos is not None)
        self.wanted = wanted
        self.sequences: list[tuple[list[int], list[int], list[int]]] = []
        self.documents: list[str] = []
        self.packed = 0
        self._stream: tuple[list[int], list[int], list[int]] = ([], [], [])

    @property
    def full(self) -> bool:
        return self.packed >= self.wanted

    def add(self, name: str, ids: list[int]) -> int:
        """Take a document in; returns by how many tokens the packed ones have grown."""
        before = self.packed
        special = set(self.special_ids)
        tokens, document, position = self._stream
        tokens.extend(ids)
        document.extend(-1 if token in special else len(self.documents) for token in ids)
        position.extend(range(len(ids)))
        if self.separator is not None:
            tokens.append(self.separator)
            document.append(-1)
            position.append(len(ids))
        self.documents.append(name)
        start = 0
        while len(tokens) - start >= self.body and not self.full:
            piece = slice(start, start + self.body)
            self._cut(tokens[piece], document[piece], position[piece])
            start += self.body
        self._stream = (tokens[start:], document[start:], position[start:])
        return self.packed - before

    def _cut(self, tokens: list[int], document: list[int], position: list[int]) -> None:
        self.packed += sum(d >= 0 for d in document)
        if self.bos is not None:
            tokens, document, position = [self.bos, *tokens], [-1, *document], [0, *position]
        self.sequences.append((tokens, document, position))

    def token_set(self) -> TokenSet:
        arrays = [torch.tensor([s[i] for s in self.sequences], dtype=torch.int32) for i in range(3)]
        return TokenSet(arrays[0], arrays[1], arrays[2], self.documents, self.special_ids, complete=self.full)
