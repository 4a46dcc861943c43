"""The Gated SAE: one path decides which latents are active, another how much (Rajamanoharan et al. 2024)."""

from __future__ import annotations

from functools import cached_property

import torch
from pydantic import Field
from torch import nn

from sae.architecture import SAE, Architecture, aux_model_prop, model_prop
from sae.components import L2Loss, PreActMetrics, SparsityPenaltyLoss
from sae.components import features as ft
from sae.config import SweepableConfig
from sae.core import Lambda, Parallel, ReuseForward, Seq, ops, useif


class GatedConfig(SweepableConfig):
    """What there is to choose in a Gated SAE."""

    pre_bias: bool = Field(default=True, description="Subtract the decoder's bias from the encoder's input.")


class GatedSAE(Architecture[GatedConfig]):
    """π = W_enc (x - [b_dec]); z = 1[π + b_gate > 0] · ReLU(exp(r) π + b_mag); x̂ = W_dec z + b_dec.

    The loss is L2 + coefficient · Σ ReLU(π + b_gate) + L2_aux, where L2_aux reconstructs from ReLU(π + b_gate) through a
    frozen copy of the decoder. Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse
    autoencoders", section 3.2. SAELens does not freeze the copy; the paper does.
    """

    def setup(self) -> None:
        self.init._encoder.bias = False
        self.init._decoder.add_wrapper(ft.NormFeatures)
        self.init._decoder.add_wrapper(ft.OrthogonalizeFeatureGrads)

    @cached_property
    def inner(self) -> ReuseForward:
        """π, which both paths share."""
        return ReuseForward(Seq(**useif(self.cfg.pre_bias, pre_bias=self.init._decoder.sub_bias()), lin=self.init.encoder))

    @cached_property
    def magnitude(self) -> Seq:
        return Seq(
            scaled=ops.MulParallel(inner=self.inner, exp_r=Lambda(torch.exp, self.init.dict_bias())),
            bias=self.init.new_encoder_bias(),
            nonlinearity=nn.ReLU(),
        )

    @cached_property
    def gate(self) -> Seq:
        # Recorded, so that AuxK works on what decides whether a latent is active.
        return Seq(inner=self.inner, bias=self.init.new_encoder_bias(), preacts=PreActMetrics(), nonlinearity=nn.ReLU())

    @model_prop
    def model(self) -> SAE:
        return SAE(
            encoder=Parallel(magnitude=self.magnitude, gate=ops.Thresh(self.gate)).reduce(torch.mul),
            decoder=self.init.decoder,
            penalty=None,
        )

    @aux_model_prop
    def gate_model(self) -> SAE:
        return SAE(encoder=self.gate, decoder=self.init._decoder.detached, freqs=None)

    L2_loss = model.add_loss(L2Loss)
    L2_aux_loss = gate_model.add_loss(L2Loss)
    sparsity_loss = gate_model.add_loss(SparsityPenaltyLoss)
