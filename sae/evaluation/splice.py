"""The language model with something else at its hook points: what it costs in cross-entropy.

Shapes: S sequences of C tokens, D dimensions of an input's row, E of a target's, W of one hook point, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae.activations.model import HookPoint, forward, input_device
from sae.config import Failure, InputError
from sae.evaluation.metrics import loss_recovered
from sae.evaluation.tasks import Task, next_token

Replace = Callable[[Tensor], Tensor]
"""From rows [S, C, D] of the untouched model's activations to what takes the targets' place, [S, C, E] or [E]."""


class SplicedLoss:
    """Cross-entropy in nats per token of the untouched model, with reconstructions spliced in, and with ablations.

    Reconstructions are of what the untouched model computes at the sources, whichever places come first, and stand at all
    targets in the same pass. Special tokens and padding keep their activations, since no SAE was trained on them; they are
    no targets either. All means are over tokens, so that every token has the same weight.

    Args:
        model: the subject.
        sources: hook points whose activations, side by side, are reconstructed from.
        targets: hook points where the reconstruction's columns go, in this order; for an autoencoder the same.
        reconstruct: rows [..., D] to their reconstruction [..., E].
        means: mean activation [W] of the training split at each target, which the mean ablation puts in.
        task: what the model predicts.
    """

    def __init__(
        self,
        model: nn.Module,
        sources: list[HookPoint],
        targets: list[HookPoint],
        reconstruct: Replace,
        means: list[Tensor],
        task: Task = next_token,
    ) -> None:
        self.model, self.sources, self.targets, self.task = model, sources, targets, task
        self.widths = [len(mean_W) for mean_W in means]
        mean_E = torch.cat(means)
        self.variants: dict[str, Replace | None] = {
            "original": None,
            "spliced": reconstruct,
            "zero_ablation": lambda x_SCD: torch.zeros_like(mean_E),
            "mean_ablation": lambda x_SCD: mean_E,
        }
        self.tokens = self.sequences = 0
        self._device, self._mean_device = input_device(model), mean_E.device
        self._totals = dict.fromkeys(self.variants, 0.0)

    @torch.no_grad()
    def update(self, tokens_SC: Tensor, special_SC: Tensor, attention_SC: Tensor | None = None) -> None:
        """Count sequences in.

        Args:
            tokens_SC: token ids.
            special_SC: which are special tokens or padding.
            attention_SC: which are no padding; None for all.

        Raises:
            InputError: the model's forward pass does not reach a hook point.
        """
        question = self.task(tokens_SC.to(self._device), special_SC.to(self._device), self.sequences)
        self.sequences += len(tokens_SC)
        self.tokens += len(question.answers_N)
        clean_SCD = torch.empty(0)
        for name, replace in self.variants.items():
            if replace is None:
                clean_SCD, logits_SCV = self._untouched(question.tokens_SC, attention_SC)
            else:
                logits_SCV = self._replaced(replace(clean_SCD), question.tokens_SC, special_SC, attention_SC)
            asked_SC, answers_N = question.asked_SC.to(logits_SCV.device), question.answers_N.to(logits_SCV.device)
            self._totals[name] += float(F.cross_entropy(logits_SCV[asked_SC].float(), answers_N, reduction="sum"))

    def result(self) -> dict[str, float]:
        """The four losses, and the shares of each ablation's damage that the reconstruction recovers.

        Raises:
            Failure: no sequence held a token to predict.
        """
        if not self.tokens:
            raise Failure("the held-out sequences hold no token to predict", where="evaluate.splice_tokens")
        losses = {name: total / self.tokens for name, total in self._totals.items()}
        return losses | {
            f"recovered_{kind}": loss_recovered(losses["original"], losses["spliced"], losses[f"{kind}_ablation"])
            for kind in ("zero", "mean")
        }

    def _untouched(self, tokens_SC: Tensor, attention_SC: Tensor | None) -> tuple[Tensor, Tensor]:
        """What passes the sources, side by side, and the logits."""
        seen: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for point in self.sources:
                # A copy, since a model may go on to change its activations in place.
                stack.enter_context(point.hooked(lambda x, name=point.name: seen.update({name: x.clone()})))  # type: ignore[misc]
            logits_SCV: Tensor = forward(self.model, tokens_SC, attention_SC).logits
        if missing := [point.name for point in self.sources if point.name not in seen]:
            raise InputError(
                "the model's forward pass never reaches these modules", where="hook_points", found=", ".join(missing)
            )
        return torch.cat([seen[point.name].to(self._mean_device) for point in self.sources], dim=-1), logits_SCV

    def _replaced(self, replacement: Tensor, tokens_SC: Tensor, special_SC: Tensor, attention_SC: Tensor | None) -> Tensor:
        """The logits with a part of the replacement, [S, C, E] or [E], at each target."""

        def put(part: Tensor) -> Replace:
            return lambda x: torch.where(special_SC.to(x.device)[..., None], x, part.to(x))

        with ExitStack() as stack:
            for point, part in zip(self.targets, replacement.split(self.widths, dim=-1), strict=True):
                stack.enter_context(point.hooked(put(part)))
            logits_SCV: Tensor = forward(self.model, tokens_SC, attention_SC).logits
        return logits_SCV
