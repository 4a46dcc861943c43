"""Transcoders: from a layer's input to its output through sparse latents, with or without a linear skip."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import L1Penalty, L2Loss, SparsityPenaltyLoss, TopK
from sae.components import features as ft
from sae.config import SweepableConfig


class TranscoderConfig(SweepableConfig):
    """What there is to choose in a transcoder; with `topk`, k is `train.l0_target`."""

    nonlinearity: Literal["topk", "relu"] = Field(
        default="topk", description="`relu` comes with an L1 penalty, which is steered."
    )


class Transcoder(Architecture[TranscoderConfig]):
    """z = TopK(W_enc x + b_enc) or ReLU(…), ŷ = W_dec z + b_dec, where y is another activation than x; the loss is L2.

    Source: Dunefsky et al. 2024, "Transcoders find interpretable LLM feature circuits", section 3.1 (ReLU and L1). Inputs
    and targets live in different spaces, so rows of encoder and decoder start independently of each other, and nothing
    is subtracted from the input.
    """

    def setup(self) -> None:
        self.init._decoder.tied_init = False
        self.init._decoder.add_wrapper(ft.NormFeatures)
        self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    def skip(self) -> nn.Module | None:
        """What goes past the latents; nothing here."""
        return None

    @model_prop
    def model(self) -> SAE:
        topk = self.cfg.nonlinearity == "topk"
        return SAE(
            encoder_pre=self.init.encoder,
            nonlinearity=TopK(int(self.init.k("a TopK transcoder"))) if topk else nn.ReLU(),
            decoder=self.init.decoder,
            penalty=None if topk else L1Penalty(),
            skip=self.skip(),
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss | None:
        return None if self.cfg.nonlinearity == "topk" else SparsityPenaltyLoss(self.model)


class SkipTranscoder(Transcoder):
    """ŷ = W_dec z + W_skip x + b_dec, z as in the transcoder; W_skip starts at 0.

    Source: Paulo et al. 2025, "Transcoders beat sparse autoencoders for interpretability", section 2.
    """

    def skip(self) -> nn.Module:
        return self.init.skip()
