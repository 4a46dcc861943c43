"""Text, token ids and chats become the same thing, and more tokens may count as special."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae.config import InputError, parse_config
from sae.corpus.documents import Content, Document
from sae.corpus.tokens import TokensConfig, TokenSet, build_token_sets
from tests.sae.language_model import BOS, EOS, UNK, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEMPLATE = (
    "{{ bos_token }} {% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ 'w50' if message.role == 'user' else 'w51' }} {{ message.content }} {% endfor %}"
)
CHAT: Content = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]


def chatting(template: str = TEMPLATE) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def build(contents: list[Content], tokenizer: Any = TOKENIZER, **config: Any) -> TokenSet:
    """The training split of many documents with these contents in turn."""
    documents = [Document(f"doc{i}", contents[i % len(contents)]) for i in range(40)]
    section = {"context": 8, "packing": "truncate"} | config
    return build_token_sets(documents, tokenizer, parse_config(TokensConfig, section), 0.3)["train"]


def real_rows(tokens: TokenSet) -> set[tuple[int, ...]]:
    lengths = [tokens.tokens_SC.shape[1]] * len(tokens.tokens_SC) if tokens.lengths_S is None else tokens.lengths_S.tolist()
    return {tuple(row[:length]) for row, length in zip(tokens.tokens_SC.tolist(), lengths, strict=True)}


# Ids


@pytest.mark.parametrize("packing", ["pack", "truncate", "pad"])
def test_ids_give_what_their_text_would(packing: str) -> None:
    one, other = build([[1, 2, 3]], packing=packing), build(["w1 w2 w3"], packing=packing)
    assert torch.equal(one.tokens_SC, other.tokens_SC)
    assert torch.equal(one.document_SC, other.document_SC)
    assert torch.equal(one.position_SC, other.position_SC)


def test_special_ids_in_a_column_are_special() -> None:
    tokens = build([[1, EOS, 2]])
    assert real_rows(tokens) == {(BOS, 1, EOS, 2)}
    assert tokens.special_SC[0].tolist() == [True, False, True, False, True, True, True, True]


def test_bos_of_a_column_is_not_doubled_and_is_kept_where_we_put_none() -> None:
    assert real_rows(build([[BOS, 1, 2]])) == {(BOS, 1, 2)}
    assert real_rows(build([[BOS, 1, 2]], bos=False)) == {(BOS, 1, 2)}


@pytest.mark.parametrize("wrong", [-1, UNK + 1])
def test_an_id_outside_the_vocabulary_is_named_with_its_document(wrong: int) -> None:
    with pytest.raises(InputError, match=rf"doc\d+: .*vocabulary lacks \(found {wrong}, expected 0 to {UNK}\)"):
        build([[1, wrong]])


# Chats


def test_a_chat_goes_through_the_tokenizers_template() -> None:
    assert real_rows(build([CHAT], chatting())) == {(BOS, 50, 1, 2, 51, 3)}


def test_bos_of_a_template_is_not_doubled_and_is_kept_where_we_put_none() -> None:
    without = chatting(TEMPLATE.removeprefix("{{ bos_token }} "))
    assert real_rows(build([CHAT], without)) == real_rows(build([CHAT], chatting()))
    assert real_rows(build([CHAT], without, bos=False)) == {(50, 1, 2, 51, 3)}
    assert real_rows(build([CHAT], chatting(), bos=False)) == {(BOS, 50, 1, 2, 51, 3)}
    assert (build([CHAT], chatting(), packing="pack").tokens_SC[:, 1:] != BOS).all()


def test_kinds_may_change_from_document_to_document() -> None:
    assert real_rows(build(["w7 w8", CHAT, [4, 5]], chatting())) == {(BOS, 7, 8), (BOS, 50, 1, 2, 51, 3), (BOS, 4, 5)}


def test_a_chat_without_a_template_is_refused() -> None:
    with pytest.raises(InputError, match=r"doc\d+: this document is a chat, and the tokenizer has no chat template"):
        build([CHAT])


def test_a_chat_that_the_template_refuses_names_its_document_and_the_reason() -> None:
    with pytest.raises(InputError, match=r"doc\d+: .*can't take this chat: no system here"):
        build([[{"role": "system", "content": "w1"}]], chatting())


# More special tokens


def test_excluded_tokens_stay_in_place_and_are_special() -> None:
    plain, without = build(["w1 w2 w3"]), build(["w1 w2 w3"], exclude=["w2", 3])
    assert torch.equal(plain.tokens_SC, without.tokens_SC)
    assert torch.equal(without.special_SC, plain.special_SC | (plain.tokens_SC == 2) | (plain.tokens_SC == 3))
    assert without.special_ids == [2, 3, BOS, EOS, UNK]


def test_excluded_tokens_do_not_count_as_text() -> None:
    assert int((~build(["w1 w2 w3"], exclude=["w2"], train=20).special_SC).sum()) == 20


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("w1 w2", "found 'w1 w2', which is 'w1', 'w2', expected one token"),
        ("strange", "found 'strange', which is '<unk>'"),
        ("", "found '', which is nothing"),
        (UNK + 1, f"no token of this id (found {UNK + 1})"),
        (-1, "no token of this id (found -1)"),
    ],
)
def test_an_entry_that_is_not_one_token_is_named(entry: str | int, found: str) -> None:
    with pytest.raises(InputError) as caught:
        build(["w1"], exclude=[entry])
    assert str(caught.value).startswith("tokens.exclude: ")
    assert found in str(caught.value)


def test_unknown_text_may_be_excluded_by_its_own_token() -> None:
    assert UNK in build(["w1"], exclude=["<unk>"]).special_ids
