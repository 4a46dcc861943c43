"""Putting the ids of documents into sequences of one length: joined end to end, or each document on its own.

Shapes: S sequences of C tokens (the context).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Packing = Literal["pack", "truncate", "pad"]


class Sequences(NamedTuple):
    """What a packer has made: token ids, documents (-1 for special tokens and padding), places in them, and real lengths.

    Lengths are None where every sequence is full.
    """

    tokens_SC: Tensor
    document_SC: Tensor
    position_SC: Tensor
    lengths_S: Tensor | None


class Piece(NamedTuple):
    """A stretch of tokens, the document that each is from, and its place in it."""

    tokens: list[int]
    document: list[int]
    position: list[int]

    def cut(self, start: int, stop: int | None = None) -> Piece:
        return Piece(*(column[start:stop] for column in self))


class Packer:
    """Takes documents until as many tokens as are wanted stand in sequences. Subclasses say how a document is cut.

    Args:
        context: tokens in a sequence.
        wanted: tokens to pack, special tokens not counted.
        special_ids: tokens that count as no text.
        bos: what every sequence begins with, if anything.
        eos: what stands between documents that are joined, if anything.
        pad: what stands behind a sequence that is too short.
    """

    def __init__(self, *, context: int, wanted: int, special_ids: list[int], bos: int | None, eos: int | None, pad: int) -> None:
        self.context, self.wanted, self.bos, self.eos, self.pad = context, wanted, bos, eos, pad
        self.body = context - (bos is not None)
        self.documents: list[str] = []
        self.packed = 0
        self._special = set(special_ids)
        self._sequences: list[Piece] = []
        self._lengths: list[int] = []

    @property
    def full(self) -> bool:
        return self.packed >= self.wanted

    @property
    def empty(self) -> bool:
        return not self._sequences

    def add(self, name: str, ids: list[int]) -> int:
        """Take a document in; returns by how many tokens the packed ones have grown."""
        before, number = self.packed, len(self.documents)
        document = [-1 if token in self._special else number for token in ids]
        self.documents.append(name)
        self._take(Piece(ids, document, list(range(len(ids)))))
        return self.packed - before

    def sequences(self) -> Sequences:
        """All sequences so far."""
        columns = zip(*self._sequences, strict=True)
        tokens_SC, document_SC, position_SC = (torch.tensor(column, dtype=torch.int32) for column in columns)
        lengths_S = torch.tensor(self._lengths, dtype=torch.int32)
        return Sequences(tokens_SC, document_SC, position_SC, None if (lengths_S == self.context).all() else lengths_S)

    def _take(self, document: Piece) -> None:
        raise NotImplementedError

    def _finish(self, piece: Piece) -> None:
        """A piece of at most `body` tokens becomes a sequence."""
        self.packed += sum(number >= 0 for number in piece.document)
        head = Piece([], [], []) if self.bos is None else Piece([self.bos], [-1], [0])
        length = len(head.tokens) + len(piece.tokens)
        missing = self.context - length
        tail = Piece([self.pad] * missing, [-1] * missing, [0] * missing)
        self._sequences.append(Piece(*(a + b + c for a, b, c in zip(head, piece, tail, strict=True))))
        self._lengths.append(length)


class JoiningPacker(Packer):
    """Joins documents end to end, an end-of-text token after each, so that no sequence is short."""

    _stream = Piece([], [], [])

    def _take(self, document: Piece) -> None:
        end = Piece([], [], []) if self.eos is None else Piece([self.eos], [-1], [len(document.tokens)])
        stream = Piece(*(a + b + c for a, b, c in zip(self._stream, document, end, strict=True)))
        start = 0
        while len(stream.tokens) - start >= self.body and not self.full:
            self._finish(stream.cut(start, start + self.body))
            start += self.body
        self._stream = stream.cut(start)


class PaddingPacker(Packer):
    """Begins a sequence with every document, and cuts a longer one into several."""

    def _take(self, document: Piece) -> None:
        for start in range(0, len(document.tokens), self.body):
            if not self.full:
                self._finish(document.cut(start, start + self.body))


class TruncatingPacker(Packer):
    """One sequence a document: its beginning."""

    def _take(self, document: Piece) -> None:
        if document.tokens and not self.full:
            self._finish(document.cut(0, self.body))


PACKERS: dict[Packing, type[Packer]] = {"pack": JoiningPacker, "truncate": TruncatingPacker, "pad": PaddingPacker}
