"""JumpReLU, and an L0 that thresholds can learn from: steps with the pseudo-derivatives of their paper.

Both step at a threshold θ, where they have no derivative of use. Rajamanoharan et al. 2024, "Jumping ahead" (section 3
and equations 11 and 12), take for it an estimate from the pre-activations in a band of width ε around θ:

    JumpReLU_θ(z) = z·H(z - θ)      ∂/∂θ ≈ -(θ/ε) K((z - θ)/ε)      ∂/∂z = H(z - θ)
    H(z - θ)                        ∂/∂θ ≈ -(1/ε) K((z - θ)/ε)      ∂/∂z = 0

with the rectangle K(u) = 1 for \\|u\\| < 1/2, else 0. So the L0 penalty moves thresholds alone.

Shapes: B tokens in a batch, F latents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae.codes import Codes, in_full, on_support
from sae.components.parameters import LatentThreshold
from sae.core import Cache, Module


class JumpReLU(Module):
    """z where it is above its latent's threshold, else 0; records `l0_surrogate`, the batch's L0 with a gradient to θ.

    The threshold is exp of its parameter, so that it stays positive. It is compared in float32 also under autocast: in
    half precision neighbouring pre-activations would be one number.

    Args:
        log_threshold: log θ [F].
        bandwidth: ε, in units of the pre-activations.
    """

    def __init__(self, log_threshold: LatentThreshold, bandwidth: float) -> None:
        super().__init__()
        self.log_threshold = log_threshold
        self.bandwidth = bandwidth

    @property
    def threshold(self) -> Tensor:
        """θ [F]."""
        return self.log_threshold.exp()

    def forward(self, preacts_BF: Tensor, *, cache: Cache) -> Codes:
        z_BF, threshold_F = in_full(preacts_BF), self.threshold
        acts_BF: Tensor = _JumpReLU.apply(z_BF, threshold_F, self.bandwidth)  # type: ignore[no-untyped-call]
        steps_BF: Tensor = _Step.apply(z_BF, threshold_F, self.bandwidth)  # type: ignore[no-untyped-call]
        cache.write("l0_surrogate", steps_BF.sum() / len(z_BF))
        with torch.no_grad():
            support_BF = z_BF > threshold_F
            if acts_BF.requires_grad:  # in the band a latent is zero, but its gradient is not
                support_BF |= (z_BF - threshold_F).abs() < self.bandwidth / 2
        return on_support(acts_BF, support_BF)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z_BF, threshold_F)
        ctx.bandwidth = bandwidth
        return z_BF * (z_BF > threshold_F)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_BF,) = gradients
        z_BF, threshold_F = ctx.saved_tensors
        in_band_BF = (z_BF - threshold_F).abs() < ctx.bandwidth / 2
        grad_threshold_F = -(threshold_F / ctx.bandwidth) * (grad_BF * in_band_BF).sum(0)
        return grad_BF * (z_BF > threshold_F), grad_threshold_F, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z_BF, threshold_F)
        ctx.bandwidth = bandwidth
        return (z_BF > threshold_F).to(z_BF.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (grad_BF,) = gradients
        z_BF, threshold_F = ctx.saved_tensors
        in_band_BF = (z_BF - threshold_F).abs() < ctx.bandwidth / 2
        return None, -(grad_BF * in_band_BF).sum(0) / ctx.bandwidth, None
