"""ProLU: a ReLU whose bias decides whether a latent is active, and not how much (Taggart 2024).

Shapes: B tokens in a batch, F latents.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from sae.codes import Codes, in_full, on_support
from sae.components.parameters import LatentBias
from sae.core import Cache, Module

Gradient = Literal["relu", "ste"]


class ProLU(Module):
    """m where both m and m + b are positive, else 0.

    The bias has no derivative of use, so there are two choices of pseudo-derivatives, both zero where the latent is:

        relu: ∂/∂m = 1        ∂/∂b = 1      as those of ReLU(m + b)
        ste:  ∂/∂m = 1 + m    ∂/∂b = m      the step H(m + b) in m·H(m + b) passing its gradient straight through

    Source: Taggart 2024, "ProLU: A nonlinearity for sparse autoencoders" (AI Alignment Forum), "Method".

    Args:
        bias: b [F].
        gradient: which pseudo-derivatives.
    """

    def __init__(self, bias: LatentBias, gradient: Gradient) -> None:
        super().__init__()
        self.bias = bias
        self.gradient = gradient

    def forward(self, preacts_BF: Tensor, *, cache: Cache) -> Codes:
        m_BF = in_full(preacts_BF)
        acts_BF: Tensor = _ProLU.apply(m_BF, self.bias, self.gradient)  # type: ignore[no-untyped-call]
        return on_support(acts_BF, acts_BF.detach() > 0)


class _ProLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m_BF: Tensor, bias_F: Tensor, gradient: Gradient) -> Tensor:
        acts_BF = m_BF * ((m_BF > 0) & (m_BF + bias_F > 0))
        ctx.save_for_backward(acts_BF)
        ctx.gradient = gradient
        return acts_BF

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_BF,) = gradients
        (acts_BF,) = ctx.saved_tensors
        open_BF = grad_BF * (acts_BF > 0)
        if ctx.gradient == "relu":
            return open_BF, open_BF.sum(0), None
        through_BF = grad_BF * acts_BF
        return open_BF + through_BF, through_BF.sum(0), None
