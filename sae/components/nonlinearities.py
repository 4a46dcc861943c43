"""From pre-activations to codes: the k largest, of each token or of the batch.

Shapes: B tokens in a batch, F latents, K kept for each token.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from sae.codes import Codes, SparseCodes, in_full, on_support
from sae.config import SweepableConfig
from sae.core import Cache, Module


class KAnnealConfig(SweepableConfig):
    """How k comes down to its value in training. At the start more latents take part on a token, and so learn from it."""

    start: float = Field(default=1.0, ge=1, description="What k is multiplied by at the first step; 1 leaves it as it is.")
    until: float = Field(default=0.5, gt=0, le=1, description="Share of the run at which it has come down.")

    def factor(self, cache: Cache) -> float:
        """What k is multiplied by at a step: start^(1 - progress / until), then 1; 1 outside training."""
        if cache.progress is None:
            return 1.0
        return float(self.start ** (1 - min(1.0, cache.progress / self.until)))


class TopK(Module):
    """Keeps each token's k largest pre-activations, where they are positive; the rest become 0.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", section 2.3.

    Args:
        k: number to keep.
        anneal: how k comes down to that in training; None for at once.
    """

    def __init__(self, k: int, anneal: KAnnealConfig | None = None) -> None:
        super().__init__()
        self.k = k
        self.anneal = anneal or KAnnealConfig()

    def forward(self, preacts_BF: Tensor, *, cache: Cache) -> SparseCodes:
        k = round(self.k * self.anneal.factor(cache)) if self.training else self.k
        values_BK, latents_BK = preacts_BF.topk(min(k, preacts_BF.shape[-1]), dim=-1, sorted=False)
        return SparseCodes.from_rows(values_BK.relu(), latents_BK, preacts_BF.shape[-1])


class BatchTopK(Module):
    """Keeps the k·B largest pre-activations of a batch of B tokens, where they are positive; a threshold in use.

    In use (``eval()``) no token may depend on its neighbours, so a latent is kept where it is above a threshold: the mean
    over training batches of the smallest pre-activation that was kept (Bussmann et al. 2024, "BatchTopK sparse
    autoencoders", section 3). The mean is exponential, so that it follows the weights, and corrected for its start as
    Adam's are. Two things are ours. A batch with fewer than k·B positive entries counts as 0: the smallest of all would
    be too high. And since a mean of batches' quantiles is not the quantile of all tokens (in batches of 128 it cost 8 %
    of the L0), a factor on it, learnt too, makes as many entries exceed the threshold in the mean as training keeps.

    Args:
        k: mean number to keep for a token; k·B is rounded.
        anneal: how k comes down to that in training; None for at once.
        decay: what an old batch keeps of its weight in the threshold at each new one.
    """

    threshold_sum: Tensor
    threshold_weight: Tensor
    log_factor: Tensor

    def __init__(self, k: float, anneal: KAnnealConfig | None = None, decay: float = 0.99) -> None:
        super().__init__()
        self.k, self.anneal, self.decay = k, anneal or KAnnealConfig(), decay
        # They are saved with the weights, and go on in a resumed run.
        self.register_buffer("threshold_sum", torch.zeros(()))
        self.register_buffer("threshold_weight", torch.zeros(()))
        self.register_buffer("log_factor", torch.zeros(()))

    @property
    def threshold(self) -> Tensor:
        """What a latent must exceed in use; 0 before any training."""
        return self.log_factor.exp() * self.threshold_sum / self.threshold_weight.clamp_min(1e-12)

    def forward(self, preacts_BF: Tensor, *, cache: Cache) -> Codes:
        acts_BF = in_full(preacts_BF).relu()
        if not self.training:
            kept_BF = acts_BF > self.threshold
            return on_support(acts_BF.where(kept_BF, 0), kept_BF)
        count = min(max(1, round(self.k * self.anneal.factor(cache) * len(acts_BF))), acts_BF.numel())
        kept, places = acts_BF.detach().flatten().topk(count, sorted=False)  # exactly so many, whatever the ties
        if cache.step is not None:  # a step of training, not a look at the codes
            self._learn(kept, acts_BF.detach())
        return SparseCodes.from_places(acts_BF, places.sort().values)

    def _learn(self, kept: Tensor, acts_BF: Tensor) -> None:
        exceeding, wanted = (acts_BF > self.threshold).sum(), (kept > 0).sum()
        # Both counts plus 1: a batch may have none. No bound is needed but against a first threshold that is far off.
        self.log_factor += (1 - self.decay) * torch.log((exceeding + 1) / (wanted + 1)).clamp(-1, 1) * (self.threshold_weight > 0)
        self.threshold_sum.lerp_(kept.min().to(self.threshold_sum.dtype), 1 - self.decay)
        self.threshold_weight.lerp_(torch.ones_like(self.threshold_weight), 1 - self.decay)
