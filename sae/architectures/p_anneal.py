"""The p-annealed SAE: an L1 penalty that turns into a nearly L0 one during training (Karvonen et al. 2024)."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from sae.architecture import SAE, Architecture, loss_prop, model_prop
from sae.components import AnnealedPenalty, L2Loss, SparsityPenaltyLoss
from sae.components import features as ft
from sae.config import SweepableConfig
from sae.core import Seq, useif


class PAnnealConfig(SweepableConfig):
    """What there is to choose in a p-annealed SAE."""

    p_end: float = Field(default=0.2, gt=0, lt=1, description="Exponent of the penalty at the end; it starts at 1.")
    start: float = Field(default=0.1, ge=0, lt=1, description="Share of the run after which the exponent begins to fall.")
    end: float = Field(default=0.8, gt=0, le=1, description="Share of the run at which it has fallen.")
    changes: int = Field(default=40, gt=0, description="Steps in which it falls.")
    pre_bias: bool = Field(default=True, description="Subtract the decoder's bias from the encoder's input.")


class PAnnealSAE(Architecture[PAnnealConfig]):
    """z = ReLU(W_enc (x - [b_dec]) + b_enc), x̂ = W_dec z + b_dec; the loss is L2 + coefficient · Σ z^p, p falling from 1.

    Source: Karvonen et al. 2024, "Measuring progress in dictionary learning for language model interpretability with
    board game models", section 4. dictionary_learning lets p end at 0, where the penalty has no gradient; the paper at 0.2.
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
            nonlinearity=nn.ReLU(),
            decoder=self.init.decoder,
            penalty=AnnealedPenalty(self.cfg.p_end, self.cfg.start, self.cfg.end, self.cfg.changes),
        )

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)

    @loss_prop
    def sparsity_loss(self) -> SparsityPenaltyLoss:
        return SparsityPenaltyLoss(self.model)
