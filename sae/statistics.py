"""A centre of many rows.

Shapes: N rows, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def geometric_median(x_ND: Tensor, *, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point [D] whose summed distance to all rows is least: a centre that outliers don't pull.

    Weiszfeld's iteration m ← Σ x_n/d_n / Σ 1/d_n with d_n = ‖x_n - m‖, from the mean on, in the form of Vardi & Zhang
    (2000, "The multivariate L1-median and associated data depth", eq. 2.6), which also holds where m meets a row.

    Args:
        x_ND: rows.
        iterations: at most so many.
        tolerance: stop when m moves less than this share of the rows' mean distance from it.
    """
    median_D = x_ND.mean(0)
    for _ in range(iterations):
        distance_N = torch.linalg.vector_norm(x_ND - median_D, dim=1)
        spread = distance_N.mean()
        if spread == 0:
            break
        met_N = distance_N <= 1e-9 * spread
        weight_N = torch.where(met_N, 0, 1 / distance_N.where(~met_N, 1))
        pull_D = (weight_N[:, None] * (x_ND - median_D)).sum(0)
        # Rows that sit on m hold it there with a force of 1 each; the others must pull harder than that to move it.
        hold = met_N.sum() / torch.linalg.vector_norm(pull_D).clamp_min(1e-30)
        step_D = (1 - hold).clamp_min(0) * pull_D / weight_N.sum()
        median_D = median_D + step_D
        if torch.linalg.vector_norm(step_D) <= tolerance * spread:
            break
    return median_D
