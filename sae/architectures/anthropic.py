"""Anthropic's update of April 2024: ReLU codes, weighed in the penalty by their rows' norms (Conerly et al. 2024)."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import DecoderNormPenalty, L2Loss, SparsityPenaltyLoss
from sae.config import SweepableConfig
from sae.core import Seq, useif


class AnthropicConfig(SweepableConfig):
    """What there is to choose in an SAE of Anthropic's April update."""

    pre_bias: bool = Field(default=False, description="Subtract the decoder's bias from the encoder's input.")


class AnthropicSAE(Architecture[AnthropicConfig]):
    """z = ReLU(W_enc (x - [b_dec]) + b_enc), x̂ = W_dec z + b_dec; the loss is L2 + coefficient · Σ_f z_f ‖d_f‖.

    Source: Conerly et al. 2024, "Update on how we train SAEs" (Circuits Updates, April 2024). No row is held to unit
    norm, and no gradient is changed; the decoder's rows start at a norm of 0.1, and the encoder's are the same. What else
    the update says belongs to the run: clip gradients at 1 (`train.clip_grad_norm`).
    """

    def setup(self) -> None:
        self.init._encoder.row_norm = self.init._decoder.row_norm = 0.1

    @model_prop
    def model(self) -> SAE:
        return SAE(
            encoder_pre=Seq(
                **useif(self.cfg.pre_bias, pre_bias=self.init._decoder.sub_bias()),
                lin=self.init.encoder,
            ),
            nonlinearity=nn.ReLU(),
            decoder=self.init.decoder,
            penalty=DecoderNormPenalty(self.init._decoder.raw, [self.d_out]),
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss:
        return SparsityPenaltyLoss(self.model)
