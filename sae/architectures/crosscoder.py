"""The crosscoder: one set of latents that reads from, and writes to, several hook points (Lindsey et al. 2024)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import BatchTopK, DecoderNormPenalty, L2Loss, SparsityPenaltyLoss
from sae.components import features as ft
from sae.config import SweepableConfig


class CrosscoderConfig(SweepableConfig):
    """What there is to choose in a crosscoder; with `batchtopk`, k is `train.l0_target`."""

    nonlinearity: Literal["relu", "batchtopk"] = Field(
        default="relu", description="`relu` comes with a penalty weighed by decoder norms, which is steered."
    )


class Crosscoder(Architecture[CrosscoderConfig]):
    """z = ReLU(Σ_s W_enc,s x_s + b_enc), x̂_s = W_dec,s z + b_s; the loss is L2 + coefficient · Σ_f z_f Σ_s ‖d_f,s‖.

    Source: Lindsey et al. 2024, "Sparse crosscoders for cross-layer features and model diffing", "Setup". The hook
    points stand side by side in one row, so that encoder and decoder are one map each. With `batchtopk` there is no
    penalty that keeps decoder rows short, so each row has unit norm over all hook points together.
    """

    def setup(self) -> None:
        if self.cfg.nonlinearity == "batchtopk":
            self.init._decoder.add_wrapper(ft.NormFeatures)
            self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    @model_prop
    def model(self) -> SAE:
        relu = self.cfg.nonlinearity == "relu"
        return SAE(
            encoder_pre=self.init.encoder,
            nonlinearity=nn.ReLU() if relu else BatchTopK(self.init.k("a BatchTopK crosscoder", least=0.01)),
            decoder=self.init.decoder,
            penalty=DecoderNormPenalty(self.init._decoder.raw, self.target_widths) if relu else None,
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss | None:
        return SparsityPenaltyLoss(self.model) if self.cfg.nonlinearity == "relu" else None
