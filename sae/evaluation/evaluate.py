"""Evaluating a saved SAE on the held-out split.

Shapes: B rows in a batch, S sequences of C tokens, D dimensions of an input's row, E of a target's, F latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from sae.activations.model import HookPoint
from sae.activations.store import Store
from sae.architecture import TrainedSAE
from sae.config import SweepableConfig
from sae.corpus.tokens import TokenSet
from sae.evaluation.latents import choose_latents, top_examples
from sae.evaluation.metrics import PCA, Reconstruction, Sparsity
from sae.evaluation.splice import SplicedLoss
from sae.evaluation.tasks import Task, next_token


class EvaluateConfig(SweepableConfig):
    """How much to measure, and what to show."""

    splice_tokens: int = Field(default=50_000, gt=0, description="Held-out tokens for the cross-entropy with the SAE spliced in.")
    batch_size: int = Field(default=32, gt=0, description="Sequences in one forward pass.")
    pca_rows: int = Field(default=100_000, gt=1, description="Training rows that the PCA to compare with is fitted on.")
    latents: int = Field(default=20, ge=0, description="Latents to show in the report.")
    examples: int = Field(default=8, gt=0, description="Examples to show of each.")


class Evaluation:
    """All figures of one SAE.

    Several hook points stand side by side in a row. What is reconstructed is measured on the rows of the target's hook
    points, which are an autoencoder's own.

    Args:
        sae: as loaded from its directory.
        model: the subject.
        decode: token ids to text.
        tokens: the held-out sequences.
        held_out: the held-out store, whose rows are these sequences in order.
        train: the training store, for the mean and the PCA.
        config: see above.
        progress: called with the number of sequences done since the last call.
        task: what the model predicts; None for a model that predicts nothing, which leaves the cross-entropy out.

    Raises:
        InputError: a store lacks one of the SAE's hook points.
    """

    def __init__(
        self,
        sae: TrainedSAE,
        model: nn.Module,
        decode: Callable[[list[int]], str],
        tokens: TokenSet,
        held_out: Store,
        train: Store,
        config: EvaluateConfig,
        progress: Callable[[int], None] = lambda sequences: None,
        task: Task | None = next_token,
    ) -> None:
        self.sae, self.model, self.decode, self.config = sae, model, decode, config
        self.tokens, self.held_out, self.train, self.progress, self.task = tokens, held_out, train, progress, task
        for store in (held_out, train):
            store.match_hook_points([*sae.hook_points, *sae.target_hook_points], str(store.directory))
        self.means = [train.mean(name) for name in sae.target_hook_points]
        self.mean_E = torch.cat(self.means)
        self.device = sae.decoder_rows_FD.device

    @property
    def spliced_sequences(self) -> int:
        """How many sequences the cross-entropy is measured on: enough for the tokens that are asked for, or all."""
        if self.task is None:
            return 0
        count, context = self.tokens.tokens_SC.shape
        lengths_S = self.tokens.lengths_S if self.tokens.lengths_S is not None else torch.full((count,), context)
        return min(count, 1 + int((lengths_S.cumsum(0) < self.config.splice_tokens).sum()))

    @property
    def work(self) -> int:
        """Sequences to go through in all: once for the codes, once for the splice."""
        return len(self.tokens.tokens_SC) + self.spliced_sequences

    @torch.no_grad()
    def run(self) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """Metrics, histograms, and the latents to show."""
        x_ND = self._held_out_rows(self.sae.hook_points)
        same = self.sae.target_hook_points == self.sae.hook_points
        y_NE = x_ND if same else self._held_out_rows(self.sae.target_hook_points)
        real_N = ~self.tokens.special_SC.flatten()
        reconstruction, sparsity = Reconstruction(self.mean_E), Sparsity(self.sae.d_sae)
        rows = self.config.batch_size * self.tokens.tokens_SC.shape[1]
        for x_BD, y_BE, real_B in zip(x_ND.split(rows), y_NE.split(rows), real_N.split(rows), strict=True):
            x_BD = x_BD[real_B].float().to(self.device)
            codes = self.sae.encode(x_BD)
            sparsity.update(codes)
            reconstruction.update(y_BE[real_B].float(), self.sae.decode(codes, x_BD).cpu())
            self.progress(len(real_B) // self.tokens.tokens_SC.shape[1])

        metrics: dict[str, Any] = {
            "tokens": sparsity.rows,
            "l0": sparsity.l0(),
            "fvu": reconstruction.fvu(),
            "cosine": reconstruction.cosine(),
            "dead_latents": sparsity.dead(),
            "dead_share": sparsity.dead() / self.sae.d_sae,
            "pca": self._pca(y_NE[real_N], components=min(self.sae.d_out, math.ceil(sparsity.l0()))),
            "loss": None if self.task is None else self._spliced_loss(self.task),
        }
        histograms = {"frequency": sparsity.frequency_histogram(), "l0": sparsity.l0_histogram()}
        return metrics, histograms, self._latents(x_ND, sparsity)

    def _held_out_rows(self, hook_points: list[str]) -> Tensor:
        return torch.cat([_rows(self.held_out, index, hook_points) for index in range(len(self.held_out.manifest.shards))])

    def _pca(self, y_NE: Tensor, components: int) -> dict[str, float]:
        fitted: list[Tensor] = []
        for index in range(len(self.train.manifest.shards)):
            if sum(map(len, fitted)) < self.config.pca_rows:
                fitted.append(_rows(self.train, index, self.sae.target_hook_points))
        pca = PCA(torch.cat(fitted)[: self.config.pca_rows])
        reconstruction = Reconstruction(self.mean_E)
        for y_BE in y_NE.split(8192):
            reconstruction.update(y_BE, pca.reconstruct(y_BE, components))
        return {"components": components, "fvu": reconstruction.fvu()}

    def _spliced_loss(self, task: Task) -> dict[str, float]:
        sources, targets = (
            [HookPoint(self.model, name, "hook_points") for name in names]
            for names in (self.sae.hook_points, self.sae.target_hook_points)
        )
        means, attention_SC = [mean_E.to(self.device) for mean_E in self.means], self.tokens.attention_SC
        spliced = SplicedLoss(self.model, sources, targets, lambda x_SCD: self.sae(x_SCD.float()), means, task)
        for start in range(0, self.spliced_sequences, self.config.batch_size):
            here = slice(start, min(start + self.config.batch_size, self.spliced_sequences))
            mask_SC = None if attention_SC is None else attention_SC[here]
            spliced.update(self.tokens.tokens_SC[here], self.tokens.special_SC[here], mask_SC)
            self.progress(here.stop - here.start)
        return {"tokens": spliced.tokens} | spliced.result()

    def _latents(self, x_ND: Tensor, sparsity: Sparsity) -> list[dict[str, Any]]:
        latents = choose_latents(sparsity.fired_F, self.config.latents)
        if not latents:
            return []
        rows = [self.sae.encode(x_BD.float().to(self.device)).dense()[:, latents].cpu() for x_BD in x_ND.split(8192)]
        activations_SCL = torch.cat(rows).view(*self.tokens.tokens_SC.shape, len(latents))
        activations_SCL = activations_SCL.masked_fill(self.tokens.special_SC[..., None], 0)
        return top_examples(
            activations_SCL, latents, sparsity.frequency_F(), self.tokens, self.decode, examples=self.config.examples
        )


def _rows(store: Store, shard: int, hook_points: list[str]) -> Tensor:
    """Rows of a shard, hook points side by side."""
    columns = store.read_shard(shard, hook_points)
    return torch.cat([columns[name] for name in hook_points], dim=-1)
