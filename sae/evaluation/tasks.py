"""What a language model is asked to predict: the next token, or the tokens that are masked out.

Shapes: S sequences of C tokens, N predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae.config import InputError, generator
from sae.corpus.subject import Kind


class Question(NamedTuple):
    """Sequences for the model, and what it is to say of them.

    Attributes:
        tokens_SC: what the model is given.
        asked_SC: the positions whose logits count.
        answers_N: the tokens that are right there, in the order of `asked_SC`.
    """

    tokens_SC: Tensor
    asked_SC: Tensor
    answers_N: Tensor


Task = Callable[[Tensor, Tensor, int], Question]
"""From token ids, special tokens [S, C], and the number of the first sequence, to a question."""


def next_token(tokens_SC: Tensor, special_SC: Tensor, first: int) -> Question:
    """At every position the token that follows, where that is no special one."""
    asked_SC = torch.zeros_like(special_SC)
    asked_SC[:, :-1] = ~special_SC[:, 1:]
    return Question(tokens_SC, asked_SC, tokens_SC[:, 1:][asked_SC[:, :-1]].long())


class MaskedTokens:
    """A share of each sequence's real tokens, which the model sees as its mask token.

    Which they are belongs to the sequence's number and nothing else, so that batches and variants don't change it.
    Source: Devlin et al. 2019, "BERT", section 3.1: 15 %; here all of them become the mask token.

    Args:
        mask: id of the mask token.
        share: of the tokens that are no special ones; at least one in a sequence that has any.
    """

    def __init__(self, mask: int, share: float = 0.15) -> None:
        self.mask, self.share = mask, share

    def __call__(self, tokens_SC: Tensor, special_SC: Tensor, first: int) -> Question:
        asked_SC = torch.zeros(special_SC.shape, dtype=torch.bool)
        for row, special_C in enumerate(special_SC.cpu()):
            (real,) = (~special_C).nonzero(as_tuple=True)
            stream = generator(0, "evaluate", "masked tokens", f"sequence {first + row}")
            count = min(len(real), max(1, round(self.share * len(real))))
            asked_SC[row, real[torch.randperm(len(real), generator=stream)[:count]]] = True
        asked_SC = asked_SC.to(tokens_SC.device)
        return Question(tokens_SC.masked_fill(asked_SC, self.mask), asked_SC, tokens_SC[asked_SC].long())


def task_of(kind: Kind, tokenizer: Any) -> Task | None:
    """What a kind of model predicts; None for an encoder, which predicts nothing.

    Raises:
        InputError: a masked model's tokenizer has no mask token.
    """
    if kind == "encoder":
        return None
    if kind == "causal":
        return next_token
    if tokenizer.mask_token_id is None:
        raise InputError(
            "this tokenizer has no mask token",
            where="subject.model",
            expected="one, or subject.kind: encoder for no cross-entropy",
        )
    return MaskedTokens(tokenizer.mask_token_id)
