"""Packing documents into sequences: nothing is lost, doubled or mixed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sae.config import InputError, parse_config
from sae.corpus.documents import Document
from sae.corpus.split import is_held_out
from sae.corpus.tokens import SPLITS, TokensConfig, TokenSet, build_token_sets
from tests.sae.language_model import BOS, EOS, UNK, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TOKENIZERS = {(bos, eos): tiny_tokenizer(bos=bos, eos=eos) for bos in (True, False) for eos in (True, False)}
SHARE = 0.3


def documents(lengths: list[int]) -> list[Document]:
    """Documents of so many words; word j of document i is w{(i + j) % 60}."""
    return [Document(f"doc{i}", " ".join(f"w{(i + j) % 60}" for j in range(length))) for i, length in enumerate(lengths)]


def build(texts: list[Document], tokenizer: Any = TOKENIZER, **config: Any) -> dict[str, TokenSet]:
    section = {"context": 8, "train": 10**6, "held_out": 10**6} | config
    return build_token_sets(texts, tokenizer, parse_config(TokensConfig, section), SHARE)


def words_of(tokens: TokenSet) -> dict[str, list[tuple[int, int]]]:
    """What a token set says of each document: (position, token) in the order of the sequences, special tokens left out."""
    found: dict[str, list[tuple[int, int]]] = {}
    columns = (tokens.document_SC, tokens.position_SC, tokens.tokens_SC)
    for document, position, token in zip(*(column.flatten().tolist() for column in columns), strict=True):
        if document >= 0:
            found.setdefault(tokens.documents[document], []).append((position, token))
    return found


MANY = documents([17, 3, 40, 1, 9, 22] * 20)


@given(st.lists(st.integers(0, 40), min_size=60, max_size=140), st.integers(2, 17), st.booleans(), st.booleans())
def test_every_token_of_every_document_stands_once_and_in_order(lengths: list[int], context: int, bos: bool, eos: bool) -> None:
    texts = [d for d in documents(lengths) if d.content]
    body, streams = context - bos, {}
    for split in SPLITS:
        mine = [d for d in texts if is_held_out(d.name, SHARE) == (split == "held_out")]
        streams[split] = [token for d in mine for token in [*(int(word[1:]) for word in str(d.content).split()), *[EOS] * eos]]
    assume(all(len(stream) >= body for stream in streams.values()))
    for split, tokens in build(texts, TOKENIZERS[bos, eos], context=context).items():
        whole = len(streams[split]) // body
        expected = streams[split][: whole * body]
        assert tokens.tokens_SC.shape == (whole, context)
        assert tokens.tokens_SC[:, bos:].flatten().tolist() == expected
        for name, words in words_of(tokens).items():
            text = str(dict(texts)[name]).split()
            assert words == [(i, int(word[1:])) for i, word in enumerate(text[: len(words)])]


def test_every_sequence_begins_with_bos() -> None:
    for tokens in build(MANY).values():
        assert set(tokens.tokens_SC[:, 0].tolist()) == {BOS}
        assert not (tokens.tokens_SC[:, 1:] == BOS).any()


def test_without_bos_sequences_are_text_throughout() -> None:
    for tokens in (build(MANY, bos=False)["train"], build(MANY, tiny_tokenizer(bos=False))["train"]):
        assert not (tokens.tokens_SC == BOS).any()
        assert tokens.tokens_SC.shape[1] == 8


def test_special_tokens_are_flagged_and_only_they() -> None:
    for tokens in build(MANY).values():
        assert torch.equal(tokens.special_SC, tokens.tokens_SC >= BOS)
        assert tokens.special_ids == [BOS, EOS, UNK]


def test_an_end_of_text_token_follows_each_document() -> None:
    tokens = build(MANY)["train"]
    flat, document = tokens.tokens_SC[:, 1:].flatten(), tokens.document_SC[:, 1:].flatten()
    ends = (flat == EOS).nonzero().flatten().tolist()
    inside = [at for at in ends if 0 < at < len(flat) - 1]
    assert all(document[at + 1] == document[at - 1] + 1 for at in inside)
    changes = int((document[document >= 0].diff() != 0).sum())
    assert changes == len(inside)


def test_special_tokens_inside_a_text_are_flagged_too() -> None:
    texts = [Document(d.name, f"{d.content} </s> w1 strange") for d in MANY]
    tokens = build(texts)["train"]
    assert torch.equal(tokens.special_SC, tokens.tokens_SC >= BOS)
    assert (tokens.tokens_SC == UNK).any()


def test_documents_go_to_the_split_that_their_names_decide() -> None:
    for split, tokens in build(MANY).items():
        assert {is_held_out(name, SHARE) for name in words_of(tokens)} == {split == "held_out"}


def test_packing_stops_once_both_splits_are_full() -> None:
    read = []

    def endless() -> Iterator[Document]:
        for i in range(10**6):
            read.append(i)
            yield Document(f"doc{i}", " ".join(["w1"] * 20))

    sets = build_token_sets(endless(), TOKENIZER, TokensConfig(context=8, train=300, held_out=200), SHARE)
    assert len(read) < 300
    for split, wanted in (("train", 300), ("held_out", 200)):
        tokens = int((~sets[split].special_SC).sum())
        assert wanted <= tokens < wanted + 8
        assert sets[split].complete


def test_progress_counts_the_tokens_that_are_no_special_ones() -> None:
    counted: list[int] = []
    sets = build_token_sets(MANY, TOKENIZER, TokensConfig(context=8, train=100, held_out=50), SHARE, counted.append)
    assert sum(counted) == sum(int((~tokens.special_SC).sum()) for tokens in sets.values())


def test_incomplete_when_the_corpus_holds_too_little() -> None:
    sets = build(MANY, train=100, held_out=10**6)
    assert sets["train"].complete
    assert not sets["held_out"].complete


def test_longer_wish_begins_like_the_shorter_one() -> None:
    short, long = build(MANY, train=60)["train"], build(MANY, train=400)["train"]
    assert torch.equal(long.tokens_SC[: len(short.tokens_SC)], short.tokens_SC)


def test_empty_corpus_is_refused() -> None:
    with pytest.raises(InputError, match="corpus: the corpus is empty"):
        build([])


def test_corpus_that_fills_no_sequence_of_a_split_is_refused() -> None:
    with pytest.raises(InputError, match=r"corpus: .*too small: the (train|held_out) split does not fill one sequence of 8"):
        build(documents([3]))


def test_context_that_holds_no_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"tokens\.context"):
        parse_config(TokensConfig, {"context": 1}, "tokens")


def test_saved_tokens_come_back(tmp_path: Path) -> None:
    tokens = build([*MANY, Document("naïve ‘name’", "w1 w2 w3")])["train"]
    tokens.save(tmp_path)
    loaded = TokenSet.load(tmp_path)
    for name in ("tokens_SC", "document_SC", "position_SC"):
        assert torch.equal(getattr(loaded, name), getattr(tokens, name))
    assert (loaded.documents, loaded.special_ids, loaded.complete) == (tokens.documents, tokens.special_ids, tokens.complete)


def test_saving_the_same_tokens_writes_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        build(MANY)["train"].save(tmp_path / name)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("missing", ["tokens.json", "tokens.safetensors"])
def test_missing_files_are_named(missing: str, tmp_path: Path) -> None:
    build(MANY)["train"].save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match="no tokens here"):
        TokenSet.load(tmp_path)


@pytest.mark.parametrize("damaged", ["tokens.json", "tokens.safetensors"])
def test_damaged_files_are_named(damaged: str, tmp_path: Path) -> None:
    build(MANY)["train"].save(tmp_path)
    (tmp_path / damaged).write_bytes(b"{")
    with pytest.raises(InputError, match=f"{damaged}.*damaged"):
        TokenSet.load(tmp_path)
