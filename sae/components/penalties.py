"""Sparsity penalties: pass-through modules that record how much the codes are to be punished."""

from __future__ import annotations

from sae.codes import Codes
from sae.core import Cache, Module


class L1Penalty(Module):
    """scale · Σ_f mean_B |z_f|, recorded as `sparsity_penalty`. Source: Bricken et al. 2023, "Sparse Autoencoder Setup"."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, codes: Codes, *, cache: Cache) -> Codes:
        cache.write("sparsity_penalty", self.scale * codes.l1())
        return codes
