"""Wrappers that keep the dictionary in shape: unit norm, and gradients that don't work against it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from sae.components.hooks import Wrapper
from sae.components.parameters import DecoderRows
from sae.config import SaeError
from sae.core import Cache


class _DecoderRowsWrapper(Wrapper):
    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__(wrapped)
        if not list(self._rows()):
            raise SaeError(f"{type(self).__name__} needs decoder rows to act on", found=type(wrapped).__name__)

    def _rows(self) -> Iterator[DecoderRows]:
        return (p for p in self.wrapped.parameters() if isinstance(p, DecoderRows))


class NormFeatures(_DecoderRowsWrapper):
    """Scales every decoder row to unit norm after each optimizer step. A row of exactly zero stays as it is.

    Source: Bricken et al. 2023, Towards Monosemanticity, appendix "Advice for Training Sparse Autoencoders".
    """

    @torch.no_grad()
    def post_step(self, cache: Cache | None) -> None:
        for rows_FD in self._rows():
            norms_F1 = torch.linalg.vector_norm(rows_FD, dim=-1, keepdim=True)
            rows_FD.div_(norms_F1.where(norms_F1 > 0, 1))


class OrthogonalizeFeatureGrads(_DecoderRowsWrapper):
    """Removes from every decoder row's gradient its part along the row, which the normalisation would undo.

    g ← g - (g·d/‖d‖²) d. Without it, Adam's moments would be spoilt by what never takes effect. Source: Bricken et al.
    2023, same appendix.
    """

    @torch.no_grad()
    def post_backward(self, cache: Cache | None) -> None:
        for rows_FD in self._rows():
            if rows_FD.grad is None:
                continue
            squares_F1 = rows_FD.square().sum(-1, keepdim=True)
            along_F1 = (rows_FD.grad * rows_FD).sum(-1, keepdim=True) / squares_F1.where(squares_F1 > 0, 1)
            rows_FD.grad -= along_F1 * rows_FD
