"""The vanilla SAE: ReLU codes under an L1 penalty, with a dictionary of unit norm (Bricken et al. 2023)."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import L2Loss, SparsityPenaltyLoss
from sae.components import features as ft
from sae.config import SweepableConfig
from sae.core import Seq, useif


class VanillaConfig(SweepableConfig):
    """What there is to choose in a vanilla SAE."""

    pre_bias: bool = Field(default=True, description="Subtract the decoder's bias from the encoder's input.")


class VanillaSAE(Architecture[VanillaConfig]):
    """z = ReLU(W_enc (x - [b_dec]) + b_enc), x̂ = W_dec z + b_dec; the loss is L2 + coefficient · Σ z."""

    def setup(self) -> None:
        self.init._decoder.add_wrapper(ft.NormFeatures)
        self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    @model_prop
    def model(self) -> SAE:
        return SAE(
            encoder_pre=Seq(
                **useif(self.cfg.pre_bias, pre_bias=self.init._decoder.sub_bias()),
                lin=self.init.encoder,
            ),
            nonlinearity=nn.ReLU(),
            decoder=self.init.decoder,
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss:
        return SparsityPenaltyLoss(self.model)
