"""The figures of merit, one definition each, exact over all the rows that were given (sums, not means of batches).

Shapes: B rows (tokens) in a batch, D dimensions of an activation, F latents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.codes import Codes


class Reconstruction:
    """How well rows x are given back as x̂.

    FVU, the fraction of variance unexplained, is Σ‖x - x̂‖² / Σ‖x - x̄‖², with x̄ the mean of the same rows. Cosine is the
    mean over rows of x·x̂ / (‖x‖ ‖x̂‖), counting 0 where either is zero.

    Args:
        center_D: a point near the mean, such as the training split's; it only keeps the sums small.
    """

    def __init__(self, center_D: Tensor) -> None:
        self.rows = 0
        self._center_D = center_D.double()
        self._sum_D = torch.zeros_like(self._center_D)
        self._squares = self._error = self._cosine = 0.0

    def update(self, x_BD: Tensor, reconstruction_BD: Tensor) -> None:
        """Count a batch of rows in."""
        x_BD, reconstruction_BD = x_BD.double(), reconstruction_BD.double()
        centered_BD = x_BD - self._center_D
        self.rows += len(x_BD)
        self._sum_D += centered_BD.sum(0)
        self._squares += float(centered_BD.square().sum())
        self._error += float((x_BD - reconstruction_BD).square().sum())
        norms_B = torch.linalg.vector_norm(x_BD, dim=-1) * torch.linalg.vector_norm(reconstruction_BD, dim=-1)
        self._cosine += float(((x_BD * reconstruction_BD).sum(-1) / norms_B.where(norms_B > 0, 1)).sum())

    def fvu(self) -> float:
        """Fraction of variance unexplained; 0 is perfect, 1 is what the mean alone gives."""
        variance = self._squares - float(self._sum_D.square().sum()) / self.rows
        return self._error / variance if variance > 0 else float("nan")

    def cosine(self) -> float:
        """Mean cosine similarity."""
        return self._cosine / self.rows


class Sparsity:
    """How many latents fire on a token, and on how many tokens each latent fires."""

    def __init__(self, d_sae: int) -> None:
        self.rows = 0
        self.fired_F = torch.zeros(d_sae, dtype=torch.int64)
        self.l0_counts = torch.zeros(d_sae + 1, dtype=torch.int64)

    def update(self, codes: Codes) -> None:
        """Count a batch of codes in."""
        self.rows += codes.shape[0]
        self.fired_F += codes.fired().cpu()
        self.l0_counts += torch.bincount(codes.l0_per_token().cpu(), minlength=len(self.l0_counts))

    def l0(self) -> float:
        """Mean number of non-zero latents of a token."""
        return float((self.l0_counts * torch.arange(len(self.l0_counts))).sum()) / self.rows

    def dead(self) -> int:
        """Number of latents that fired on none of the rows."""
        return int((self.fired_F == 0).sum())

    def frequency_F(self) -> Tensor:
        """Share of the rows that each latent fires on."""
        return self.fired_F.double() / self.rows

    def frequency_histogram(self, bins_a_decade: int = 4) -> dict[str, object]:
        """Number of latents by the decimal logarithm of their frequency, and the number that never fired."""
        alive = self.frequency_F()[self.fired_F > 0].log10()
        decades = 1 + int(torch.tensor(float(self.rows)).log10())
        edges = torch.linspace(-decades, 0, decades * bins_a_decade + 1, dtype=torch.float64)
        counts = torch.histogram(alive.clamp(min=float(edges[0])), edges).hist
        return {"log10_edges": edges.tolist(), "counts": [int(c) for c in counts], "never": self.dead()}

    def l0_histogram(self, bins: int = 40) -> dict[str, list[int]]:
        """Number of tokens by how many latents fire on them, in bins of whole numbers."""
        top = int(self.l0_counts.nonzero().max()) + 1
        width = max(1, -(-top // bins))
        edges = list(range(0, top + width, width))
        return {"edges": edges, "counts": [int(self.l0_counts[lo:hi].sum()) for lo, hi in zip(edges, edges[1:], strict=False)]}


class PCA:
    """Principal components of rows: the yardstick, since it is the best that a linear map of a given rank can do.

    Args:
        rows_ND: to fit on.
    """

    def __init__(self, rows_ND: Tensor) -> None:
        rows_ND = rows_ND.double()
        self.mean_D = rows_ND.mean(0)
        covariance_DD = (rows_ND - self.mean_D).T @ (rows_ND - self.mean_D) / len(rows_ND)
        _, self._vectors_DD = torch.linalg.eigh(covariance_DD)  # ascending eigenvalues

    def reconstruct(self, x_BD: Tensor, components: int) -> Tensor:
        """Projection of rows on the first components, in float64."""
        basis_DK = self._vectors_DD[:, self._vectors_DD.shape[1] - components :]
        reconstruction_BD: Tensor = self.mean_D + ((x_BD.double() - self.mean_D) @ basis_DK) @ basis_DK.T
        return reconstruction_BD


def loss_recovered(original: float, spliced: float, ablated: float) -> float:
    """(ablated - spliced) / (ablated - original): 1 if splicing costs nothing, 0 if it is as bad as the ablation."""
    return (ablated - spliced) / (ablated - original) if ablated != original else float("nan")
