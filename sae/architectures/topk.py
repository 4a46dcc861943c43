"""The TopK SAE: the k largest latents of each token, and no penalty (Gao et al. 2024)."""

from __future__ import annotations

from pydantic import Field

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import KAnnealConfig, L2Loss, TopK
from sae.components import features as ft
from sae.config import SweepableConfig
from sae.core import Seq, useif


class TopKConfig(SweepableConfig):
    """What there is to choose in a TopK SAE; k is `train.l0_target`."""

    pre_bias: bool = Field(default=True, description="Subtract the decoder's bias from the encoder's input.")
    anneal: KAnnealConfig = KAnnealConfig()


class TopKSAE(Architecture[TopKConfig]):
    """z = TopK(W_enc (x - [b_dec]) + b_enc), x̂ = W_dec z + b_dec; the loss is L2."""

    def setup(self) -> None:
        self.k = int(self.init.k("TopK"))
        self.init._decoder.add_wrapper(ft.NormFeatures)
        self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    @model_prop
    def model(self) -> SAE:
        return SAE(
            encoder_pre=Seq(
                **useif(self.cfg.pre_bias, pre_bias=self.init._decoder.sub_bias()),
                lin=self.init.encoder,
            ),
            nonlinearity=TopK(self.k, self.cfg.anneal),
            decoder=self.init.decoder,
            penalty=None,
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)
