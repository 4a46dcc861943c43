"""A decoder that also says what each prefix of the latents reconstructs by itself (Matryoshka).

Shapes: B tokens in a batch, F latents, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sae.codes import Codes, as_codes
from sae.components.hooks import Wrapper
from sae.core import Cache


class NestedDecoder(Wrapper):
    """Decodes block by block, and records as `prefixes` the sum after each block: one decoding in all, not one a prefix.

    Args:
        wrapped: the decoder, in its other wrappers.
        prefixes: numbers of latents, ascending; the last is F.
    """

    def __init__(self, wrapped: nn.Module, prefixes: Sequence[int]) -> None:
        super().__init__(wrapped)
        self.prefixes = list(prefixes)

    def forward(self, codes: Codes | Tensor, *, cache: Cache) -> Tensor:
        codes, bounds = as_codes(codes), [0, *self.prefixes]
        # One split, whose gradient is one concatenation; a slice for each block would fill [F, D] with zeros each time.
        blocks = self.weight.split([stop - start for start, stop in zip(bounds, bounds[1:], strict=False)])
        sums: list[Tensor] = []
        for start, stop, rows in zip(bounds, self.prefixes, blocks, strict=False):
            part_BD = self.apply_with(codes.narrow(start, stop), rows, None if sums else self.bias)
            sums.append(sums[-1] + part_BD if sums else part_BD)
        cache.write("prefixes", sums)
        return sums[-1]
