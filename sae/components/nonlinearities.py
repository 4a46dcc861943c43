"""From pre-activations to codes: the k largest, of each token or of the batch.

Shapes: B tokens in a batch, F latents, K kept for each token.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from sae.codes import Codes, SparseCodes, in_full, on_support
from sae.components.thresholds import LearntThreshold
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

    In use (``eval()``) no token may depend on its neighbours, so a latent is kept where it is above a threshold that
    training learnt (Bussmann et al. 2024, "BatchTopK sparse autoencoders", section 3).

    Args:
        k: mean number to keep for a token; k·B is rounded.
        anneal: how k comes down to that in training; None for at once.
        decay: what an old batch keeps of its weight in the threshold at each new one.
    """

    def __init__(self, k: float, anneal: KAnnealConfig | None = None, decay: float = 0.99) -> None:
        super().__init__()
        self.k, self.anneal = k, anneal or KAnnealConfig()
        self.threshold = LearntThreshold(decay)

    def forward(self, preacts_BF: Tensor, *, cache: Cache) -> Codes:
        acts_BF = in_full(preacts_BF).relu()
        if not self.training:
            kept_BF = acts_BF > self.threshold.value
            return on_support(acts_BF.where(kept_BF, 0), kept_BF)
        count = min(max(1, round(self.k * self.anneal.factor(cache) * len(acts_BF))), acts_BF.numel())
        kept, places = acts_BF.detach().flatten().topk(count, sorted=False)  # exactly so many, whatever the ties
        if cache.step is not None:  # a step of training, not a look at the codes
            self.threshold.learn(kept, acts_BF.detach())
        return SparseCodes.from_places(acts_BF, places.sort().values)
