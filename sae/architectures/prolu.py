"""The ProLU SAE: the bias decides whether a latent is active, and takes nothing from its size (Taggart 2024)."""

from __future__ import annotations

from pydantic import Field

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import L2Loss, ProLU, SparsityPenaltyLoss
from sae.components import features as ft
from sae.components.prolu import Gradient
from sae.config import SweepableConfig
from sae.core import Seq, useif


class ProLUConfig(SweepableConfig):
    """What there is to choose in a ProLU SAE."""

    gradient: Gradient = Field(
        default="ste", description="Pseudo-derivatives of the nonlinearity: those of a ReLU, or straight through."
    )
    pre_bias: bool = Field(default=True, description="Subtract the decoder's bias from the encoder's input.")


class ProLUSAE(Architecture[ProLUConfig]):
    """z = ProLU(W_enc (x - [b_dec]), b_enc), x̂ = W_dec z + b_dec; the loss is L2 + coefficient · Σ z.

    Source: Taggart 2024, "ProLU: A nonlinearity for sparse autoencoders" (AI Alignment Forum).
    """

    def setup(self) -> None:
        self.init._encoder.bias = False
        self.init._decoder.add_wrapper(ft.NormFeatures)
        self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    @model_prop
    def model(self) -> SAE:
        return SAE(
            encoder_pre=Seq(
                **useif(self.cfg.pre_bias, pre_bias=self.init._decoder.sub_bias()),
                lin=self.init.encoder,
            ),
            nonlinearity=ProLU(self.init.latent_bias(), self.cfg.gradient),
            decoder=self.init.decoder,
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss:
        return SparsityPenaltyLoss(self.model)
