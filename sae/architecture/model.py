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
        skip: from activations to what is added to the reconstruction, past the latents; none unless given.

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
        skip: nn.Module | None = None,
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
        self.skip = skip

    def forward(self, x_BD: Tensor, *, cache: Cache) -> Any:
        codes: Any = as_codes(run(self.encoder, x_BD, cache["encoder"]))
        for part in (self.acts, self.freqs, self.penalty):
            if part is not None:
                codes = run(part, codes, cache)
        return self._decode(codes, x_BD, cache)

    def encode(self, x_BD: Tensor) -> Codes:
        """The codes of activations [B, D], with nothing recorded."""
        return as_codes(run(self.encoder, x_BD, Cache()["encoder"]))

    def decode(self, codes: Codes | Tensor, x_BD: Tensor | None = None) -> Tensor:
        """The reconstruction [B, D] of codes [B, F]; a model with a skip also needs the activations.

        Raises:
            SaeError: it has a skip, and none were given.
        """
        return self._decode(as_codes(codes), x_BD, Cache())

    def _decode(self, codes: Codes, x_BD: Tensor | None, cache: Cache) -> Tensor:
        reconstruction: Tensor = run(self.decoder, codes, cache["decoder"])
        if self.skip is None:
            return reconstruction
        if x_BD is None:
            raise SaeError("this SAE has a skip past its latents, so its output needs the input too", expected="decode(codes, x)")
        skipped: Tensor = run(self.skip, x_BD, cache["skip"])
        return reconstruction + skipped
