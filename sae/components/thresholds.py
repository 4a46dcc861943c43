"""A threshold that training learns for use, where in training itself the choice depends on the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearntThreshold(nn.Module):
    """What a latent must exceed in use, learnt from what training batches keep.

    The mean over training batches of the smallest activation that was kept (Bussmann et al. 2024, "BatchTopK sparse
    autoencoders", section 3). The mean is exponential, so that it follows the weights, and corrected for its start as
    Adam's are. Two things are ours. A batch that keeps fewer positive entries than it may counts as 0: the smallest of all
    would be too high. And since a mean of batches' quantiles is not the quantile of all tokens (in batches of 128 it cost
    8 % of the L0), a factor on it, learnt too, makes as many entries exceed the threshold in the mean as training keeps.

    The factor may be set anew at the end of training, when a model's L0 is trimmed (`sae.training.trim`): a nonlinearity
    that holds its threshold in this module is trimmed without knowing of it.

    Args:
        decay: what an old batch keeps of its weight at each new one.
    """

    sum: Tensor
    weight: Tensor
    log_factor: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        # They are saved with the weights, and go on in a resumed run.
        for name in ("sum", "weight", "log_factor"):
            self.register_buffer(name, torch.zeros(()))

    @property
    def value(self) -> Tensor:
        """The threshold, a scalar; 0 before any training."""
        return self.log_factor.exp() * self.sum / self.weight.clamp_min(1e-12)

    @torch.no_grad()
    def learn(self, kept: Tensor, acts_BF: Tensor) -> None:
        """Take one training batch into account.

        Args:
            kept: the entries that the batch kept, flat; some may be 0, where fewer were positive.
            acts_BF: all its activations, not negative.
        """
        exceeding, wanted = (acts_BF > self.value).sum(), (kept > 0).sum()
        # Both counts plus 1: a batch may have none. No bound is needed but against a first threshold that is far off.
        self.log_factor += (1 - self.decay) * torch.log((exceeding + 1) / (wanted + 1)).clamp(-1, 1) * (self.weight > 0)
        self.sum.lerp_(kept.min().to(self.sum.dtype), 1 - self.decay)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)
