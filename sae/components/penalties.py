"""Sparsity penalties: pass-through modules that record how much the codes are to be punished."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sae.codes import Codes
from sae.components.linear import DecoderLinear
from sae.core import Cache, Module


class L1Penalty(Module):
    """scale · Σ_f mean_B |z_f|, recorded as `sparsity_penalty`. Source: Bricken et al. 2023, "Sparse Autoencoder Setup"."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, codes: Codes, *, cache: Cache) -> Codes:
        cache.write("sparsity_penalty", self.scale * codes.l1())
        return codes


class DecoderNormPenalty(Module):
    """Σ_f mean_B |z_f| Σ_s ‖d_f,s‖, recorded as `sparsity_penalty`; s runs over the hook points that a row is made of.

    With it a model gains nothing by small codes and long rows, so that rows need no unit norm. The gradient reaches the
    rows. Sources: Conerly et al. 2024, "Update on how we train SAEs" (one hook point); Lindsey et al. 2024, "Sparse
    Crosscoders", "Setup" (several).

    Args:
        decoder: whose rows weigh the codes; it stays the owner of its parameters.
        widths: dimensions of each hook point in a row.
    """

    def __init__(self, decoder: DecoderLinear, widths: Sequence[int]) -> None:
        super().__init__()
        self._decoder = (decoder,)  # in a tuple torch does not see it, so that its parameters have one place only
        self.widths = list(widths)

    def forward(self, codes: Codes, *, cache: Cache) -> Codes:
        parts = torch.split(self._decoder[0].weight, self.widths, dim=1)
        norms_F = torch.stack([torch.linalg.vector_norm(part_FD, dim=1) for part_FD in parts]).sum(0)
        cache.write("sparsity_penalty", codes.weighted_l1(norms_F))
        return codes


class AnnealedPenalty(Module):
    """scale · Σ_f mean_B |z_f|^p, recorded as `sparsity_penalty`, with p going down from 1 in equal steps during training.

    When p changes, the scale changes with it so that the penalty of the batch stays what it was: else the same
    coefficient would suddenly weigh more. Source: Karvonen et al. 2024, "Measuring progress in dictionary learning for
    language model interpretability with board game models", section 4 and appendix B; there the new scale comes from the
    last ten batches, here from the one at hand.

    Args:
        p_end: where p ends.
        start: share of the run after which p begins to fall.
        end: share of the run at which it has fallen.
        changes: number of steps down.
    """

    scale: Tensor

    def __init__(self, p_end: float, start: float, end: float, changes: int) -> None:
        super().__init__()
        self.p_end, self.start, self.end, self.changes = p_end, start, end, changes
        self.register_buffer("scale", torch.ones(()), persistent=False)  # a state of training, no part of a saved model

    def exponent(self, progress: float) -> float:
        """p when a share of the run is done."""
        fallen = (progress - self.start) / max(self.end - self.start, 1e-9)
        step = min(self.changes, max(0, int(fallen * self.changes + 1e-9)))
        return 1 + (self.p_end - 1) * step / self.changes

    def forward(self, codes: Codes, *, cache: Cache) -> Codes:
        p = self.exponent(cache.progress or 0.0)
        if self.training and cache.step and cache.steps:
            before = self.exponent((cache.step - 1) / cache.steps)  # of the last step, also in a run that was resumed
            if p != before:
                self._keep_strength(codes.detach(), before, p)
        cache.write("sparsity_penalty", self.scale * codes.lp(p))
        return codes

    def _keep_strength(self, codes: Codes, before: float, p: float) -> None:
        old, new = codes.lp(before), codes.lp(p)
        self.scale.mul_(torch.where(new > 0, old / new.where(new > 0, 1), 1).to(self.scale.dtype))
