"""Prefixes of a nested decoder reconstruct what they would by themselves.

Shapes: B tokens in a batch, F latents, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae.codes import Codes, DenseCodes, SparseCodes
from sae.components import NestedDecoder, NestedL2Loss, NormFeatures
from sae.components.linear import DecoderLinear
from sae.core import Cache, Seq

B, F, D = 6, 8, 5
GENERATOR = torch.Generator().manual_seed(0)
CODES_BF = torch.randn(B, F, generator=GENERATOR, dtype=torch.float64).relu()
ROWS_FD = torch.randn(F, D, generator=GENERATOR, dtype=torch.float64)
BIAS_D = torch.randn(D, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("make", [DenseCodes, SparseCodes.from_dense])
@pytest.mark.parametrize("bias", [True, False])
def test_prefixes_and_the_whole(make: Callable[[Tensor], Codes], bias: bool) -> None:
    decoder = NestedDecoder(NormFeatures(DecoderLinear(ROWS_FD.clone(), BIAS_D.clone() if bias else None)), [1, 3, 8])
    cache = Cache()
    out_BD = decoder(make(CODES_BF), cache=cache)
    offset = BIAS_D if bias else 0
    for prefix, found_BD in zip([1, 3, 8], cache.read("prefixes"), strict=True):
        torch.testing.assert_close(found_BD, CODES_BF[:, :prefix] @ ROWS_FD[:prefix] + offset)
    assert out_BD is cache.read("prefixes")[-1]


def test_loss_is_the_mean_over_the_prefixes() -> None:
    y_BD = torch.randn(B, D, generator=GENERATOR, dtype=torch.float64)
    model = Seq(decoder=NestedDecoder(DecoderLinear(ROWS_FD.clone(), BIAS_D.clone()), [3, 8]))
    loss = NestedL2Loss(model)(CODES_BF, y_BD, cache=Cache())  # type: ignore[arg-type]
    each = [(y_BD - CODES_BF[:, :m] @ ROWS_FD[:m] - BIAS_D).square().mean() for m in (3, 8)]
    torch.testing.assert_close(loss, (each[0] + each[1]) / 2)
