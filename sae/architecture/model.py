"""`SAE`: encoder, figures, frequencies, penalty, decoder, in this order."""

from __future__ import annotations

from types import EllipsisType
from typing import Any

from torch import Tensor, nn

from sae.codes import Codes, as_codes
from sae.components.frequency import EMAFreqTracker
from sae.components.metrics import ActMetrics, PreActMetrics
from sae.components.penalties import L1Penalty
from sae.config import SaeError
from sae.core import Cache, Module, Seq, run


class SAE(Module):
    """A sparse autoencoder made of named parts.

    Args:
        encoder: from activations [B, D] to codes [B, F]; or give the next two instead.
        encoder_pre: from activations to pre-activations.
        nonlinearity: from pre-activations to codes.
        decoder: from codes to activations [B, D].
        penalty: what records the sparsity penalty; an L1 penalty unless given, none with None.
        freqs: what tracks firing frequencies; an `EMAFreqTracker` unless given, none with None.

    Raises:
        SaeError: the encoder is given twice, or not at all.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module | None = None,
        encoder_pre: nn.Module | None = None,
        nonlinearity: nn.Module | None = None,
        decoder: nn.Module,
        penalty: nn.Module | EllipsisType | None = ...,
        freqs: nn.Module | EllipsisType | None = ...,
    ) -> None:
        super().__init__()
        if encoder is None and encoder_pre is not None and nonlinearity is not None:
            encoder = Seq(encoder_pre=encoder_pre, preacts=PreActMetrics(), nonlinearity=nonlinearity)
        elif encoder is None or encoder_pre is not None or nonlinearity is not None:
            raise SaeError("an SAE takes either `encoder`, or both `encoder_pre` and `nonlinearity`")
        self.encoder = encoder
        self.acts = ActMetrics()
        self.freqs = EMAFreqTracker() if freqs is ... else freqs
        self.penalty = L1Penalty() if penalty is ... else penalty
        self.decoder = decoder

    def forward(self, x_BD: Tensor, *, cache: Cache) -> Any:
        codes: Any = as_codes(run(self.encoder, x_BD, cache["encoder"]))
        for part in (self.acts, self.freqs, self.penalty):
            if part is not None:
                codes = run(part, codes, cache)
        return run(self.decoder, codes, cache["decoder"])

    def encode(self, x_BD: Tensor) -> Codes:
        """The codes of activations [B, D], with nothing recorded."""
        return as_codes(run(self.encoder, x_BD, Cache()["encoder"]))

    def decode(self, codes: Codes | Tensor) -> Tensor:
        """The reconstruction [B, D] of codes [B, F]."""
        reconstruction: Tensor = run(self.decoder, as_codes(codes), Cache()["decoder"])
        return reconstruction
