"""The BatchTopK SAE: as many latents a token as it needs, k of them on average (Bussmann et al. 2024)."""

from __future__ import annotations

from pydantic import Field

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import BatchTopK, KAnnealConfig, L2Loss
from sae.components import features as ft
from sae.config import SweepableConfig
from sae.core import Seq, useif


class BatchTopKConfig(SweepableConfig):
    """What there is to choose in a BatchTopK SAE; k is `train.l0_target`."""

    pre_bias: bool = Field(default=True, description="Subtract the decoder's bias from the encoder's input.")
    anneal: KAnnealConfig = KAnnealConfig()


class BatchTopKSAE(Architecture[BatchTopKConfig]):
    """z = BatchTopK(W_enc (x - [b_dec]) + b_enc), x̂ = W_dec z + b_dec; the loss is L2.

    Source: Bussmann et al. 2024, "BatchTopK sparse autoencoders", sections 3 and 3.1. In use the batch's k·B largest give
    way to a threshold that was learnt in training, so that a token's codes are its own.
    """

    def setup(self) -> None:
        self.k = self.init.k("BatchTopK", least=0.01)
        self.init._decoder.add_wrapper(ft.NormFeatures)
        self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    @model_prop
    def model(self) -> SAE:
        return SAE(
            encoder_pre=Seq(
                **useif(self.cfg.pre_bias, pre_bias=self.init._decoder.sub_bias()),
                lin=self.init.encoder,
            ),
            nonlinearity=BatchTopK(self.k, self.cfg.anneal),
            decoder=self.init.decoder,
            penalty=None,
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)
