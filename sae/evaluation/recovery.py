"""Were the true features found? Figures of merit for activations whose features are known.

Shapes: B rows in a batch, G true features, F latents, D dimensions of the target, M matched pairs (the fewer of G and F).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae.codes import Codes
from sae.evaluation.metrics import Reconstruction, Sparsity


@dataclass(frozen=True)
class Matching:
    """Pairs of a true feature and a latent, each in one pair at most.

    Attributes:
        feature_M: the features, ascending.
        latent_M: the latent of each.
        cosine_M: absolute cosine of the feature's direction and the latent's decoder row.
    """

    feature_M: Tensor
    latent_M: Tensor
    cosine_M: Tensor


def match_features(true_GD: Tensor, decoder_FD: Tensor) -> Matching:
    """The one-to-one matching with the greatest sum of absolute cosines (the assignment problem, solved exactly)."""
    cosine_GF = absolute_cosines(true_GD, decoder_FD)
    feature_M, latent_M = (torch.from_numpy(found) for found in linear_sum_assignment(cosine_GF.numpy(), maximize=True))
    return Matching(feature_M, latent_M, cosine_GF[feature_M, latent_M])


def mean_correlation(true_GD: Tensor, decoder_FD: Tensor) -> float:
    """Mean correlation coefficient (MCC): how well each true direction is matched by a decoder row of its own.

    The mean over true features of the absolute cosine between the feature and the decoder row that the optimal matching
    gives it. It compares directions, not activations, as O'Neill et al. 2024 ("Compute Optimal Inference and Provable
    Amortisation Gap in Sparse Autoencoders", arXiv 2411.13117) and the synthetic benchmarks of SAELens do. A feature for
    which no latent is left counts 0.

    Example:
        >>> mean_correlation(torch.eye(4), torch.eye(4)[[2, 0, 1]])
        0.75
    """
    return float(match_features(true_GD, decoder_FD).cosine_M.sum()) / len(true_GD)


def uniqueness(true_GD: Tensor, decoder_FD: Tensor) -> float:
    """Share of distinct features among those nearest to the latents: 1 if each latent has a feature to itself.

    Each latent takes the feature of greatest absolute cosine, whether or not another latent has taken it; two latents for
    one feature, as when it is split, bring this below 1. With more latents than features it cannot reach 1.
    """
    nearest_F = absolute_cosines(true_GD, decoder_FD).argmax(0)
    return len(nearest_F.unique()) / len(decoder_FD)


def absolute_cosines(true_GD: Tensor, decoder_FD: Tensor) -> Tensor:
    """|cosine| [G, F] in float64; 0 where a row is zero."""
    true_GD, decoder_FD = (torch.nn.functional.normalize(x.detach().cpu().double(), dim=1) for x in (true_GD, decoder_FD))
    return (true_GD @ decoder_FD.T).abs()


class Recovery:
    """Counts codes against the true magnitudes, row by row, and gives all the figures.

    F1 is the mean over true features of 2·TP / (2·TP + FP + FN), with the latent that the matching gives the feature taken
    as its detector: it should be non-zero on just the rows where the feature fires. Features that fire on none of the rows
    say nothing and are left out; one without a latent counts 0.

    Args:
        true_GD: directions of the true features in the target.
        decoder_FD: decoder rows.
        center_D: a point near the mean of the target, such as its true bias.
    """

    def __init__(self, true_GD: Tensor, decoder_FD: Tensor, center_D: Tensor) -> None:
        self.true_GD, self.decoder_FD = true_GD, decoder_FD
        self.matching = match_features(true_GD, decoder_FD)
        self.sparsity = Sparsity(len(decoder_FD))
        self.reconstruction = Reconstruction(center_D.cpu())
        self._both_M = torch.zeros(len(self.matching.feature_M), dtype=torch.int64)
        self._true_G = torch.zeros(len(true_GD), dtype=torch.int64)

    def update(self, codes: Codes, magnitude_BG: Tensor, y_BD: Tensor, reconstruction_BD: Tensor) -> None:
        """Count a batch in.

        Args:
            codes: [B, F] from the SAE in inference form.
            magnitude_BG: what the true features did on the same rows.
            y_BD: the targets.
            reconstruction_BD: what the SAE made of the rows.
        """
        self.sparsity.update(codes)
        self.reconstruction.update(y_BD.cpu(), reconstruction_BD.cpu())
        fires_BG = magnitude_BG.cpu() != 0
        self._true_G += fires_BG.sum(0)
        detected_BM = codes.dense().detach().cpu()[:, self.matching.latent_M] != 0
        self._both_M += (detected_BM & fires_BG[:, self.matching.feature_M]).sum(0)

    def f1_G(self) -> Tensor:
        """F1 of each true feature; not a number where it never fired."""
        both_G = torch.zeros(len(self.true_GD), dtype=torch.float64)
        detected_G = torch.zeros_like(both_G)
        both_G[self.matching.feature_M] = self._both_M.double()
        detected_G[self.matching.feature_M] = self.sparsity.fired_F[self.matching.latent_M].double()
        f1_G = 2 * both_G / (detected_G + self._true_G)
        return f1_G.where(self._true_G > 0, torch.nan)

    def figures(self) -> dict[str, float]:
        """mcc, f1, uniqueness, l0, true_l0, fvu, and the number of latents that fired on none of the rows."""
        return {
            "mcc": mean_correlation(self.true_GD, self.decoder_FD),
            "f1": float(self.f1_G().nanmean()),
            "uniqueness": uniqueness(self.true_GD, self.decoder_FD),
            "l0": self.sparsity.l0(),
            "true_l0": float(self._true_G.sum()) / self.sparsity.rows,
            "fvu": self.reconstruction.fvu(),
            "dead": self.sparsity.dead(),
        }
