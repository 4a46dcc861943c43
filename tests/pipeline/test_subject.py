"""The language model that ships, and the script that makes it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline import subject
from sae.corpus.documents import CorpusConfig, Document, iter_documents
from sae.corpus.split import is_held_out
from tests.conftest import sentence

SHIPPED = Path(__file__).parents[2] / "data/subject"
CARD = json.loads((SHIPPED / "card.json").read_text())


def test_the_shipped_model_is_small_and_as_good_as_its_card_says() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 12e6
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    context = model.config.max_position_embeddings
    windows: list[list[int]] = []
    for document in iter_documents(CorpusConfig()):
        ids = tokenizer(document.content)["input_ids"]
        if is_held_out(document.name, 0.1) and len(ids) > context:
            windows.append([tokenizer.bos_token_id, *ids[: context - 1]])
        if len(windows) == 64:
            break
    tokens = torch.tensor(windows)
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    # Documents differ: the mean of some windows stands within half a nat of the whole held-out set's.
    assert len(windows) >= 32
    assert loss.mean().item() == pytest.approx(CARD["held_out"]["nats_per_token"], abs=0.5)


def test_the_card_shows_a_model_worth_looking_into() -> None:
    held_out, baselines = CARD["held_out"], CARD["baselines"]
    assert held_out["nats_per_token"] <= baselines["interpolated_bigram"] - 1
    assert baselines["interpolated_bigram"] < baselines["unigram"]
    by_position = list(held_out["nats_by_position"].values())
    assert by_position == sorted(by_position, reverse=True), "loss falls with position"
    assert (
        held_out["nats_by_position"]["128-255"] < held_out["nats_by_position"]["64-127"] < held_out["nats_by_position"]["32-63"]
    )


def test_the_tokenizer_loses_no_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    text = "def f(x):\n\treturn 'naïve ✓ 日本'  # …\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_baselines_against_counts_by_hand() -> None:
    train, held_out, vocabulary = [0, 1, 2, 1, 2, 2], [1, 2, 0], 3
    count, pairs = Counter(train), Counter(zip(train, train[1:], strict=False))
    unigram = {w: (count[w] + 1) / (len(train) + vocabulary) for w in range(vocabulary)}

    def bigram(c: int, w: int) -> float:
        seen = sum(n for (a, _), n in pairs.items() if a == c)
        types = sum(a == c for a, _ in pairs)
        return (pairs[c, w] + types * unigram[w]) / (seen + types)

    transitions = list(zip(held_out, held_out[1:], strict=False))
    by_hand = -sum(math.log(unigram[w]) for _, w in transitions) / 2, -sum(math.log(bigram(*t)) for t in transitions) / 2
    tensors = torch.tensor(train), torch.tensor(held_out)
    assert subject.unigram_loss(*tensors, vocabulary) == pytest.approx(by_hand[0])
    assert subject.bigram_loss(*tensors, vocabulary) == pytest.approx(by_hand[1])


def test_the_script_makes_a_directory_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document(f"{i}.py", sentence(i, 100)) for i in range(40)]
    monkeypatch.setattr(subject, "iter_documents", lambda config: iter(documents))
    options = "--vocabulary 280 --layers 1 --width 16 --heads 2 --mlp 32 --context 16 --batch 4 --steps 30 --warmup 5"
    assert subject.main(["--out", str(tmp_path), *options.split()]) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["data"]["train_documents"] + card["data"]["held_out_documents"] == 40
    assert card["held_out"]["nats_per_token"] < math.log(280)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.hidden_size == 16
    assert AutoTokenizer.from_pretrained(tmp_path).bos_token == subject.BOS
    assert "nats per token" in (tmp_path / "README.md").read_text()
