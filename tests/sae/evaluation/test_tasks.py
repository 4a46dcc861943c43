"""What a model is asked: the next token, or tokens that are masked out."""

from __future__ import annotations

import pytest
import torch

from sae.config import InputError
from sae.evaluation.tasks import MaskedTokens, next_token, task_of
from tests.sae.language_model import BOS, MASK, random_tokens, tiny_tokenizer

S, C = 12, 41
TOKENS = random_tokens(S, C)
SPECIAL = TOKENS >= BOS


def test_next_token_is_asked_wherever_it_is_no_special_one() -> None:
    tokens_SC, special_SC = random_tokens(2, 5), torch.zeros(2, 5, dtype=torch.bool)
    special_SC[:, 0], special_SC[1, 3] = True, True
    question = next_token(tokens_SC, special_SC, 0)
    assert torch.equal(question.tokens_SC, tokens_SC)
    assert question.asked_SC.tolist() == [[True] * 4 + [False], [True, True, False, True, False]]
    assert question.answers_N.tolist() == [*tokens_SC[0, 1:].tolist(), *tokens_SC[1, [1, 2, 4]].tolist()]


def test_fifteen_percent_of_the_real_tokens_of_each_sequence_are_masked() -> None:
    special_SC = SPECIAL.clone()
    special_SC[3, 21:], special_SC[4, 2:], special_SC[5] = True, True, True
    question = MaskedTokens(MASK)(TOKENS, special_SC, 0)
    assert question.asked_SC.sum(1).tolist() == [6, 6, 6, 3, 1, 0, 6, 6, 6, 6, 6, 6]
    assert not (question.asked_SC & special_SC).any()
    assert torch.equal(question.tokens_SC == MASK, question.asked_SC)
    assert torch.equal(question.tokens_SC[~question.asked_SC], TOKENS[~question.asked_SC])
    assert torch.equal(question.answers_N, TOKENS[question.asked_SC].long())


def test_masked_places_belong_to_the_sequence_and_not_to_the_batch() -> None:
    task = MaskedTokens(MASK)
    whole_SC = task(TOKENS, SPECIAL, 0).asked_SC
    parts = [task(TOKENS[start : start + 5], SPECIAL[start : start + 5], start).asked_SC for start in (0, 5, 10)]
    assert torch.equal(torch.cat(parts), whole_SC)
    assert len({tuple(row) for row in whole_SC.tolist()}) == S


def test_an_encoder_is_asked_nothing_and_a_masked_model_needs_a_mask_token() -> None:
    tokenizer = tiny_tokenizer()
    assert task_of("encoder", tokenizer) is None
    assert task_of("causal", tokenizer) is next_token
    with pytest.raises(InputError, match=r"subject\.model: this tokenizer has no mask token"):
        task_of("masked", tokenizer)
    tokenizer.mask_token = "w7"
    task = task_of("masked", tokenizer)
    assert isinstance(task, MaskedTokens)
    assert task.mask == 7
