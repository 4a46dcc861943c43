"""The JumpReLU SAE: a learnt threshold for each latent, under an L0 penalty (Rajamanoharan et al. 2024)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import JumpReLU, L0Loss, L0TargetLoss, L2Loss
from sae.components import features as ft
from sae.config import SweepableConfig
from sae.core import Seq, useif


class JumpReLUConfig(SweepableConfig):
    """What there is to choose in a JumpReLU SAE. Lengths are in units of activations with a mean norm of √d_in."""

    penalty: Literal["l0", "quadratic"] = Field(
        default="l0",
        description="`l0`: coefficient · L0, steered; `quadratic`: (L0 / train.l0_target - 1)², which needs no steering.",
    )
    threshold: float = Field(default=1.0, gt=0, description="Where the thresholds start.")
    bandwidth: float = Field(default=1.0, gt=0, description="Width of the band around a threshold that its gradient comes from.")
    quadratic_weight: float = Field(default=10.0, gt=0, description="Weight of the quadratic penalty; no other has one.")
    pre_bias: bool = Field(default=True, description="Subtract the decoder's bias from the encoder's input.")


class JumpReLUSAE(Architecture[JumpReLUConfig]):
    """z = JumpReLU_θ(W_enc (x - [b_dec]) + b_enc), x̂ = W_dec z + b_dec; the loss is L2 + coefficient · L0.

    Source: Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse
    autoencoders". The step of the L0 is taken at the pre-activation, as in the paper (equation 12); dictionary_learning
    takes it at the activation, which halves the thresholds' gradient. In the paper activations have a mean square norm of
    1 and ε = θ = 0.001; ours are √d_in times as large, and the runs shorter by orders of magnitude.
    """

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
            nonlinearity=JumpReLU(self.init.latent_threshold(math.log(self.cfg.threshold)), self.cfg.bandwidth),
            decoder=self.init.decoder,
            penalty=None,
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self) -> L0Loss | None:
        return L0Loss(self.model) if self.cfg.penalty == "l0" else None

    @loss_prop
    def l0_loss(self) -> L0TargetLoss | None:
        if self.cfg.penalty == "l0":
            return None
        return L0TargetLoss(self.model, self.init.k("the quadratic penalty", least=0.01), self.cfg.quadratic_weight)
