"""The language model with something else at a hook point: what it costs in cross-entropy.

Shapes: S sequences of C tokens, D dimensions of an activation, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae.activations.model import HookPoint, forward
from sae.evaluation.metrics import loss_recovered

Replace = Callable[[Tensor], Tensor]


class SplicedLoss:
    """Cross-entropy in nats per token of the untouched model, with reconstructions spliced in, and with ablations.

    Special tokens keep their activations, since no SAE was trained on them; they are no targets either. All means are
    over tokens, so that every token has the same weight.

    Args:
        model: the subject.
        point: where to splice.
        reconstruct: activations [..., D] to their reconstruction.
        mean_D: mean activation of the training split, which the mean ablation puts in.
    """

    def __init__(self, model: nn.Module, point: HookPoint, reconstruct: Replace, mean_D: Tensor) -> None:
        self.model, self.point = model, point
        self.variants: dict[str, Replace | None] = {
            "original": None,
            "spliced": reconstruct,
            "zero_ablation": torch.zeros_like,
            "mean_ablation": lambda x: mean_D.to(x).expand_as(x),
        }
        self.tokens = 0
        self._totals = dict.fromkeys(self.variants, 0.0)

    @torch.no_grad()
    def update(self, tokens_SC: Tensor, special_SC: Tensor) -> None:
        """Count sequences in."""
        targets_SC, counted_SC = tokens_SC[:, 1:].long(), ~special_SC[:, 1:]
        self.tokens += int(counted_SC.sum())
        for name, replace in self.variants.items():
            if replace is None:
                logits_SCV = forward(self.model, tokens_SC).logits
            else:
                with self.point.hooked(lambda x, r=replace: torch.where(special_SC[..., None], x, r(x).to(x.dtype))):  # type: ignore[misc]
                    logits_SCV = forward(self.model, tokens_SC).logits
            loss = F.cross_entropy(logits_SCV[:, :-1][counted_SC].float(), targets_SC[counted_SC], reduction="sum")
            self._totals[name] += float(loss)

    def result(self) -> dict[str, float]:
        """The four losses, and the shares of each ablation's damage that the reconstruction recovers."""
        losses = {name: total / self.tokens for name, total in self._totals.items()}
        return losses | {
            f"recovered_{kind}": loss_recovered(losses["original"], losses["spliced"], losses[f"{kind}_ablation"])
            for kind in ("zero", "mean")
        }
