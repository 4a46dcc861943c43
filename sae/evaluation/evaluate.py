"""Evaluating a saved SAE on the held-out split.

Shapes: B rows in a batch, S sequences of C tokens, D dimensions, F latents.
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


class EvaluateConfig(SweepableConfig):
    """How much to measure, and what to show."""

    splice_tokens: int = Field(default=50_000, gt=0, description="Held-out tokens for the cross-entropy with the SAE spliced in.")
    batch_size: int = Field(default=32, gt=0, description="Sequences in one forward pass.")
    pca_rows: int = Field(default=100_000, gt=1, description="Training rows that the PCA to compare with is fitted on.")
    latents: int = Field(default=20, ge=0, description="Latents to show in the report.")
    examples: int = Field(default=8, gt=0, description="Examples to show of each.")


class Evaluation:
    """All figures of one SAE.

    Args:
        sae: as loaded from its directory.
        model: the subject.
        decode: token ids to text.
        tokens: the held-out sequences.
        held_out: the held-out store, whose rows are these sequences in order.
        train: the training store, for the mean and the PCA.
        config: see above.
        progress: called with the number of sequences done since the last call.
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
    ) -> None:
        self.sae, self.model, self.decode, self.config = sae, model, decode, config
        self.tokens, self.held_out, self.train, self.progress = tokens, held_out, train, progress
        self.hook_point = sae.hook_points[0]
        self.mean_D = train.mean(self.hook_point)
        self.device = sae.decoder_rows_FD.device

    @property
    def spliced_sequences(self) -> int:
        """How many sequences the cross-entropy is measured on."""
        return min(len(self.tokens.tokens_SC), -(-self.config.splice_tokens // self.tokens.tokens_SC.shape[1]))

    @property
    def work(self) -> int:
        """Sequences to go through in all: once for the codes, once for the splice."""
        return len(self.tokens.tokens_SC) + self.spliced_sequences

    @torch.no_grad()
    def run(self) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """Metrics, histograms, and the latents to show."""
        x_ND = self._held_out_rows()
        real_N = ~self.tokens.special_SC.flatten()
        reconstruction, sparsity = Reconstruction(self.mean_D), Sparsity(self.sae.d_sae)
        rows = self.config.batch_size * self.tokens.tokens_SC.shape[1]
        for x_BD, real_B in zip(x_ND.split(rows), real_N.split(rows), strict=True):
            x_BD = x_BD[real_B].float().to(self.device)
            codes = self.sae.encode(x_BD)
            sparsity.update(codes)
            reconstruction.update(x_BD.cpu(), self.sae.decode(codes).cpu())
            self.progress(len(real_B) // self.tokens.tokens_SC.shape[1])

        metrics: dict[str, Any] = {
            "tokens": sparsity.rows,
            "l0": sparsity.l0(),
            "fvu": reconstruction.fvu(),
            "cosine": reconstruction.cosine(),
            "dead_latents": sparsity.dead(),
            "dead_share": sparsity.dead() / self.sae.d_sae,
            "pca": self._pca(x_ND[real_N], components=min(self.sae.d_in, math.ceil(sparsity.l0()))),
            "loss": self._spliced_loss(),
        }
        histograms = {"frequency": sparsity.frequency_histogram(), "l0": sparsity.l0_histogram()}
        return metrics, histograms, self._latents(x_ND, sparsity)

    def _held_out_rows(self) -> Tensor:
        shards = range(len(self.held_out.manifest.shards))
        return torch.cat([self.held_out.read_shard(i, [self.hook_point])[self.hook_point] for i in shards])

    def _pca(self, x_ND: Tensor, components: int) -> dict[str, float]:
        fitted: list[Tensor] = []
        for index in range(len(self.train.manifest.shards)):
            if sum(map(len, fitted)) < self.config.pca_rows:
                fitted.append(self.train.read_shard(index, [self.hook_point])[self.hook_point])
        pca = PCA(torch.cat(fitted)[: self.config.pca_rows])
        reconstruction = Reconstruction(self.mean_D)
        for x_BD in x_ND.split(8192):
            reconstruction.update(x_BD, pca.reconstruct(x_BD, components))
        return {"components": components, "fvu": reconstruction.fvu()}

    def _spliced_loss(self) -> dict[str, float]:
        point = HookPoint(self.model, self.hook_point)
        spliced = SplicedLoss(self.model, point, lambda x: self.sae(x.float()), self.mean_D.to(self.device))
        for start in range(0, self.spliced_sequences, self.config.batch_size):
            here = slice(start, min(start + self.config.batch_size, self.spliced_sequences))
            spliced.update(self.tokens.tokens_SC[here].to(self.device), self.tokens.special_SC[here].to(self.device))
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
