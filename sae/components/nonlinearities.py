"""From pre-activations to codes."""

from __future__ import annotations

from torch import Tensor

from sae.codes import SparseCodes
from sae.core import Cache, Module


class TopK(Module):
    """Keeps each token's k largest pre-activations, where they are positive; the rest become 0.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", section 2.3.

    Args:
        k: number to keep.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, preacts_BF: Tensor, *, cache: Cache) -> SparseCodes:
        values_BK, latents_BK = preacts_BF.topk(min(self.k, preacts_BF.shape[-1]), dim=-1, sorted=False)
        return SparseCodes.from_rows(values_BK.relu(), latents_BK, preacts_BF.shape[-1])
