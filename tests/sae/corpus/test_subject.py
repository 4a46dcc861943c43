"""The subject is a directory or a hub id, and mistakes in it are told apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sae.config import InputError
from sae.corpus.subject import SubjectConfig, context_length, is_local, load_model_config, load_tokenizer
from tests.sae.language_model import tiny_llama, tiny_tokenizer


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    tiny_llama().save_pretrained(tmp_path / "models/mine")
    tiny_tokenizer().save_pretrained(tmp_path / "models/mine")
    return tmp_path / "models/mine"


def test_directory_is_local_and_an_id_is_not(subject: Path) -> None:
    assert is_local(SubjectConfig(model=str(subject)))
    assert not is_local(SubjectConfig(model="openai-community/gpt2"))


@pytest.mark.parametrize("wrong", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "nowhere"])
def test_what_looks_like_a_path_must_be_a_directory(wrong: str) -> None:
    with pytest.raises(InputError, match=r"subject\.model: there is no such model directory"):
        is_local(SubjectConfig(model=wrong))


def test_misspelt_directory_names_the_model_beside_it(subject: Path) -> None:
    with pytest.raises(InputError) as caught:
        is_local(SubjectConfig(model=str(subject.parent / "mien")))
    assert str(caught.value).endswith(f"did you mean {str(subject)!r}?")


def test_tokenizer_and_config_come_from_the_directory(subject: Path) -> None:
    config = SubjectConfig(model=str(subject))
    assert load_tokenizer(config)(["w3 w7"], add_special_tokens=False)["input_ids"] == [[3, 7]]
    assert context_length(load_model_config(config)) == 64


def test_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"subject\.model: the model can't be loaded from this directory"):
        load_model_config(SubjectConfig(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("names", "length"),
    [({"n_positions": 1024}, 1024), ({"max_position_embeddings": 64, "n_ctx": 3}, 64), ({"n_ctx": -1}, None), ({}, None)],
)
def test_context_length_goes_by_several_names(names: dict[str, int], length: int | None) -> None:
    assert context_length(SimpleNamespace(**names)) == length
