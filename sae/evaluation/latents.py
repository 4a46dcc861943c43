"""Looking at latents: the places in held-out text where each fires most.

Shapes: S sequences of C tokens, L chosen latents, F latents in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sae.corpus.tokens import TokenSet


def choose_latents(fired_F: Tensor, count: int, at_least: int = 10) -> list[int]:
    """Latents from the whole range of frequencies: evenly spaced by rank among those that fired at least so often."""
    frequent = torch.argsort(fired_F, descending=True, stable=True)
    frequent = frequent[fired_F[frequent] >= at_least]
    if not len(frequent):
        return []
    ranks = torch.linspace(0, len(frequent) - 1, min(count, len(frequent))).round().long()
    return [int(latent) for latent in frequent[ranks]]


def top_examples(
    activations_SCL: Tensor,
    latents: list[int],
    frequency_F: Tensor,
    tokens: TokenSet,
    decode: Callable[[list[int]], str],
    *,
    examples: int,
    before: int = 16,
    after: int = 8,
) -> list[dict[str, Any]]:
    """For each chosen latent its strongest activations, at most one a sequence, with the text around them.

    Args:
        activations_SCL: activations of the chosen latents on every token; 0 on special tokens.
        latents: their numbers.
        frequency_F: share of tokens that each latent fires on.
        tokens: the sequences.
        decode: token ids to text.
        examples: how many to show of each latent.
        before: tokens to show ahead of the peak.
        after: tokens to show behind it; padding is not shown.
    """
    shown = []
    for column, latent in enumerate(latents):
        peak_S, place_S = activations_SCL[:, :, column].max(dim=1)
        best = torch.topk(peak_S, min(examples, len(peak_S)))
        rows = [
            _example(int(s), int(place_S[s]), activations_SCL[s, :, column], tokens, decode, before, after)
            for s, value in zip(best.indices, best.values, strict=True)
            if value > 0
        ]
        shown.append(
            {"latent": latent, "frequency": float(frequency_F[latent]), "max_activation": float(best.values[0]), "examples": rows}
        )
    return shown


def _example(
    sequence: int, peak: int, activations_C: Tensor, tokens: TokenSet, decode: Callable[[list[int]], str], before: int, after: int
) -> dict[str, Any]:
    start = max(0, peak - before)
    length = len(activations_C) if tokens.lengths_S is None else int(tokens.lengths_S[sequence])
    piece = slice(start, min(length, peak + after + 1))
    return {
        "document": tokens.documents[int(tokens.document_SC[sequence, peak])],
        "position": int(tokens.position_SC[sequence, peak]),
        "tokens": [decode([int(token)]) for token in tokens.tokens_SC[sequence, piece]],
        "activations": [round(float(a), 4) for a in activations_C[piece]],
        "peak": peak - start,
    }
