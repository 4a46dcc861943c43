"""Pass-through modules that record figures of the codes."""

from __future__ import annotations

from torch import Tensor

from sae.codes import Codes
from sae.core import Cache, Module


class ActMetrics(Module):
    """Records `codes`, `l0` (mean count of non-zero latents) and `l1` (mean sum of magnitudes)."""

    def forward(self, codes: Codes, *, cache: Cache) -> Codes:
        codes = cache.write("codes", codes)
        cache.write("l0", codes.l0())
        cache.write("l1", codes.l1().detach())
        return codes


class PreActMetrics(Module):
    """Records the pre-activations."""

    def forward(self, preacts_BF: Tensor, *, cache: Cache) -> Tensor:
        return cache.write("preacts", preacts_BF)
