"""Examples of latents: the planted peaks are found, one a sequence, with their surroundings."""

from __future__ import annotations

import pytest
import torch

from sae.corpus.tokens import TokenSet
from sae.evaluation.latents import choose_latents, top_examples

S, C = 6, 40


def tokens() -> TokenSet:
    tokens_SC = torch.arange(S * C).view(S, C).int()
    document_SC = torch.arange(S)[:, None].expand(S, C).int()
    return TokenSet(tokens_SC, document_SC, 100 + torch.arange(C).expand(S, C).int(), [f"doc{i}" for i in range(S)], [], True)


def examples(activations_SCL: torch.Tensor, count: int = 3, **more: int) -> list[dict[str, object]]:
    latents = [7, 3][: activations_SCL.shape[2]]
    frequency_F = torch.linspace(0, 0.9, 10)
    return top_examples(activations_SCL, latents, frequency_F, tokens(), lambda ids: f"<{ids[0]}>", examples=count, **more)  # type: ignore[return-value]


def planted() -> torch.Tensor:
    """Latent 0 peaks in sequences 4, 1, 2 in this order, twice in sequence 4; latent 1 once only."""
    activations_SCL = torch.zeros(S, C, 2)
    activations_SCL[4, 20, 0], activations_SCL[4, 25, 0] = 9.0, 8.5
    activations_SCL[1, 2, 0], activations_SCL[2, 39, 0], activations_SCL[5, 5, 0] = 7.0, 6.0, 0.5
    activations_SCL[3, 10, 1] = 1.25
    return activations_SCL


def test_strongest_peaks_come_first_and_at_most_one_a_sequence() -> None:
    first = examples(planted())[0]
    rows = first["examples"]
    assert isinstance(rows, list)
    assert [row["document"] for row in rows] == ["doc4", "doc1", "doc2"]
    assert [row["position"] for row in rows] == [120, 102, 139]
    assert (first["latent"], first["max_activation"]) == (7, 9.0)
    assert first["frequency"] == pytest.approx(0.7)


def test_window_shows_tokens_and_activations_around_the_peak() -> None:
    rows = examples(planted(), before=16, after=8)[0]["examples"]
    assert isinstance(rows, list)
    middle, early, late = rows
    assert middle["tokens"] == [f"<{4 * C + c}>" for c in range(4, 29)]
    assert middle["peak"] == 16
    assert middle["activations"][16] == 9.0
    assert middle["activations"][21] == 8.5
    assert sum(middle["activations"]) == 17.5
    assert (early["peak"], len(early["tokens"])) == (2, 11)  # the sequence begins two tokens before
    assert (late["peak"], len(late["tokens"])) == (16, 17)  # and ends here


def test_sequences_without_an_activation_are_no_examples() -> None:
    second = examples(planted(), count=6)[1]
    rows = second["examples"]
    assert isinstance(rows, list)
    assert [(row["document"], row["peak"]) for row in rows] == [("doc3", 10)]
    assert second["max_activation"] == 1.25


def test_more_examples_than_sequences_are_those_there_are() -> None:
    rows = examples(planted(), count=100)[0]["examples"]
    assert isinstance(rows, list)
    assert len(rows) == 4


def test_padding_is_not_shown() -> None:
    padded = tokens()
    padded.lengths_S = torch.tensor([40, 5, 40, 12, 26, 40]).int()
    shown = top_examples(
        planted(), [7, 3], torch.linspace(0, 0.9, 10), padded, lambda ids: f"<{ids[0]}>", examples=3, before=16, after=8
    )
    strongest, second, _ = shown[0]["examples"]
    assert strongest["tokens"] == [f"<{4 * C + c}>" for c in range(4, 26)]
    assert len(strongest["activations"]) == 22
    assert second["tokens"] == [f"<{C + c}>" for c in range(5)]


def test_latents_are_chosen_from_the_whole_range_of_frequencies() -> None:
    fired_F = torch.tensor([5, 1000, 0, 30, 500, 9, 10, 70])
    assert choose_latents(fired_F, 100) == [1, 4, 7, 3, 6]
    assert choose_latents(fired_F, 3) == [1, 7, 6]
    assert choose_latents(fired_F, 1) == [1]
    assert choose_latents(fired_F, 0) == []
    assert choose_latents(fired_F, 5, at_least=10_000) == []
    assert choose_latents(fired_F, 8, at_least=0) == [1, 4, 7, 3, 6, 5, 0, 2]
