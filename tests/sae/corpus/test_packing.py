"""Documents that keep sequences of their own: what stands in them, what is padding, and how it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.config import InputError, parse_config
from sae.corpus.documents import Document
from sae.corpus.split import is_held_out
from sae.corpus.tokens import SPLITS, TokensConfig, TokenSet, build_token_sets
from tests.sae.language_model import BOS, EOS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SHARE = 0.3
LENGTHS = [17, 3, 40, 1, 9, 22, 7, 8, 14] * 12


def documents(lengths: list[int]) -> list[Document]:
    """Documents of so many words; word j of document i is w{(i + j) % 60}."""
    return [Document(f"doc{i}", " ".join(f"w{(i + j) % 60}" for j in range(length))) for i, length in enumerate(lengths)]


def build(texts: list[Document], tokenizer: Any = TOKENIZER, **config: Any) -> dict[str, TokenSet]:
    section = {"context": 8, "train": 10**6, "held_out": 10**6} | config
    return build_token_sets(texts, tokenizer, parse_config(TokensConfig, section), SHARE)


def ids_of(lengths: list[int], split: str) -> list[list[int]]:
    """Word numbers of each document of a split, told from the names alone."""
    chosen = [i for i in range(len(lengths)) if is_held_out(f"doc{i}", SHARE) == (split == "held_out")]
    return [[(i + j) % 60 for j in range(lengths[i])] for i in chosen]


def rows(tokens: TokenSet) -> list[list[int]]:
    """Each sequence without its padding."""
    assert tokens.lengths_S is not None
    return [row[:length] for row, length in zip(tokens.tokens_SC.tolist(), tokens.lengths_S.tolist(), strict=True)]


@pytest.mark.parametrize("split", SPLITS)
def test_truncate_makes_one_sequence_a_document_of_its_first_tokens(split: str) -> None:
    expected = [[BOS, *ids[:7]] for ids in ids_of(LENGTHS, split)]
    assert rows(build(documents(LENGTHS), packing="truncate")[split]) == expected
    expected = [ids[:8] for ids in ids_of(LENGTHS, split)]
    assert rows(build(documents(LENGTHS), packing="truncate", bos=False)[split]) == expected


@given(st.lists(st.integers(1, 30), min_size=60, max_size=90), st.integers(2, 12), st.booleans())
def test_pad_cuts_every_document_into_sequences_that_each_begin_with_bos(lengths: list[int], context: int, bos: bool) -> None:
    body = context - bos
    for split, tokens in build(documents(lengths), context=context, bos=bos, packing="pad").items():
        expected = [
            [BOS] * bos + ids[start : start + body] for ids in ids_of(lengths, split) for start in range(0, len(ids), body)
        ]
        found = rows(tokens) if tokens.lengths_S is not None else tokens.tokens_SC.tolist()
        assert found == expected


@pytest.mark.parametrize("packing", ["truncate", "pad"])
def test_documents_and_positions_are_those_of_the_text_and_padding_belongs_to_none(packing: str) -> None:
    for tokens in build(documents(LENGTHS), packing=packing).values():
        attention_SC = tokens.attention_SC
        assert attention_SC is not None
        assert torch.equal(tokens.special_SC, ~attention_SC | (tokens.tokens_SC == BOS))
        for row, column in (~tokens.special_SC).nonzero().tolist():
            number = int(tokens.documents[int(tokens.document_SC[row, column])].removeprefix("doc"))
            assert int(tokens.tokens_SC[row, column]) == (number + int(tokens.position_SC[row, column])) % 60


def test_packed_sequences_are_full_and_attend_to_everything() -> None:
    for tokens in build(documents(LENGTHS)).values():
        assert tokens.lengths_S is None
        assert tokens.attention_SC is None


def test_sequences_that_all_are_full_need_no_mask() -> None:
    assert build(documents([7] * 60), packing="pad")["train"].attention_SC is None


def test_padding_is_the_tokenizers_own_token_or_else_its_end_or_its_beginning_or_zero() -> None:
    padded = tiny_tokenizer()
    padded.pad_token = "w5"
    without = tiny_tokenizer(bos=False, eos=False)
    for tokenizer, expected in ((padded, 5), (TOKENIZER, EOS), (tiny_tokenizer(eos=False), BOS), (without, 0)):
        tokens = build(documents([3] * 60), tokenizer, packing="pad")["train"]
        assert tokens.attention_SC is not None
        assert set(tokens.tokens_SC[~tokens.attention_SC].tolist()) == {expected}


@pytest.mark.parametrize("packing", ["truncate", "pad"])
def test_only_as_much_is_made_as_is_wanted(packing: str) -> None:
    for split, tokens in build(documents(LENGTHS), packing=packing, train=100, held_out=30).items():
        made = int((~tokens.special_SC).sum())
        wanted = {"train": 100, "held_out": 30}[split]
        assert wanted <= made < wanted + 8
        assert tokens.complete


def test_a_document_of_special_tokens_alone_is_no_training_row() -> None:
    tokens = build([*documents(LENGTHS), *(Document(f"end{i}", "</s> </s>") for i in range(40))], packing="truncate")["train"]
    assert not (tokens.document_SC[tokens.tokens_SC == EOS] >= 0).any()


def test_lengths_come_back_from_disk_and_only_where_there_are_any(tmp_path: Path) -> None:
    for packing in ("pack", "pad"):
        (tmp_path / packing).mkdir()
        tokens = build(documents(LENGTHS), packing=packing)["train"]
        tokens.save(tmp_path / packing)
        loaded = TokenSet.load(tmp_path / packing)
        assert (tokens.lengths_S is None) == (loaded.lengths_S is None) == (packing == "pack")
        if tokens.lengths_S is not None and loaded.lengths_S is not None:
            assert torch.equal(loaded.lengths_S, tokens.lengths_S)
            assert loaded.lengths_S.dtype == torch.int32


def test_a_split_without_a_document_is_named() -> None:
    with pytest.raises(InputError, match=r"corpus: .*too small: the (train|held_out) split gets no document"):
        build(documents([3]), packing="truncate")


def test_packing_goes_by_name() -> None:
    with pytest.raises(InputError, match=r"tokens\.packing: .*did you mean 'truncate'"):
        parse_config(TokensConfig, {"packing": "truncat"}, "tokens")
