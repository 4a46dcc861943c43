"""The Matryoshka BatchTopK SAE: every prefix of the latents is a dictionary too (Bussmann et al. 2025)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import BatchTopK, KAnnealConfig, NestedDecoder, NestedL2Loss
from sae.components import features as ft
from sae.config import SweepableConfig
from sae.core import Seq, useif

Share = Annotated[float, Field(gt=0, le=1)]


class MatryoshkaConfig(SweepableConfig):
    """What there is to choose in a Matryoshka SAE; k is `train.l0_target`."""

    prefixes: tuple[Share, ...] = Field(
        default=(0.0625, 0.125, 0.25, 0.5, 1.0),
        min_length=1,
        description="Ends of the nested dictionaries as shares of d_sae, up to 1.",
    )
    pre_bias: bool = Field(default=True, description="Subtract the decoder's bias from the encoder's input.")
    anneal: KAnnealConfig = KAnnealConfig()

    @field_validator("prefixes")
    @classmethod
    def _nested(cls, prefixes: tuple[float, ...]) -> tuple[float, ...]:
        if prefixes[-1] != 1 or any(a >= b for a, b in pairwise(prefixes)):
            raise ValueError("prefixes grow, and the last is 1: the whole dictionary")
        return prefixes


class MatryoshkaSAE(Architecture[MatryoshkaConfig]):
    """z as in BatchTopK; x̂_m = W_dec z[:m] + b_dec for each prefix m; the loss is the mean over m of L2(x̂_m).

    Source: Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders", section 3; the paper
    sums over the prefixes, which differs from the mean by a constant factor.
    """

    def setup(self) -> None:
        self.k = self.init.k("Matryoshka", least=0.01)
        self.prefixes = sorted({max(1, round(share * self.d_sae)) for share in self.cfg.prefixes})
        self.init._decoder.add_wrapper(NestedDecoder, self.prefixes)
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
    def L2_loss(self) -> NestedL2Loss:
        return NestedL2Loss(self.model)
