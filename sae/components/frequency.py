"""How often latents fire, and how long they have been silent."""

from __future__ import annotations

import torch

from sae.codes import Codes
from sae.core import Cache, Module


class EMAFreqTracker(Module):
    """Tracks, in training, each latent's firing frequency and the tokens since it last fired.

    The frequency is an exponential moving average over batches, f ← f + (1 - beta)(mean_B [z ≠ 0] - f).

    Args:
        beta: what an old value keeps of its weight at each batch.
        initial: frequency to start from.
    """

    frequency: torch.Tensor
    tokens_since_fired: torch.Tensor

    def __init__(self, beta: float = 0.99, initial: float = 1e-5) -> None:
        super().__init__()
        self.beta = beta
        self.initial = initial
        self.register_buffer("frequency", torch.empty(0), persistent=False)
        self.register_buffer("tokens_since_fired", torch.empty(0, dtype=torch.int64), persistent=False)

    def allocate(self, d_sae: int) -> None:
        """Give the buffers their size; done by the architecture, which knows d_sae."""
        self.frequency = torch.full((d_sae,), self.initial)
        self.tokens_since_fired = torch.zeros(d_sae, dtype=torch.int64)

    @torch.no_grad()
    def forward(self, codes: Codes, *, cache: Cache) -> Codes:
        if self.training:
            tokens, d_sae = codes.shape
            if not len(self.frequency):
                self.allocate(d_sae)
                self.to(codes.fired().device)
            fired_F = codes.fired()
            self.frequency.lerp_(fired_F.to(self.frequency.dtype) / tokens, 1 - self.beta)
            self.tokens_since_fired.add_(tokens).masked_fill_(fired_F > 0, 0)
        return codes

    @torch.no_grad()
    def forget(self, latents_F: torch.Tensor) -> None:
        """Begin anew with some latents [F] (mask): what is known of them was of another latent."""
        self.frequency.masked_fill_(latents_F, self.initial)
        self.tokens_since_fired.masked_fill_(latents_F, 0)

    def dead(self, window: int) -> torch.Tensor:
        """Mask [F] of the latents that have not fired on the last `window` tokens."""
        return self.tokens_since_fired >= window
