"""Codes that hold a few latents a token, any number each, in compressed rows.

Shapes: B tokens, N entries held in all, K for each token where the count is fixed, F latents in all, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sae.codes.codes import Codes, DenseCodes, in_full
from sae.codes.product import sparse_product

DENSE_FROM = 1 / 8  # measured on a CPU: with a larger share of the entries held, the dense product is the faster one


class SparseCodes(Codes):
    """Entries of the tokens one after another: those of token b stand from offsets[b] up to offsets[b + 1].

    Args:
        values_N: activations; some may be zero.
        latents_N: which latents they belong to; no latent twice for a token.
        offsets: where each token's entries begin, and where the last one's end [B + 1].
        d_sae: number of latents in all.

    >>> codes = SparseCodes.from_rows(torch.tensor([[2.0], [3.0]]), torch.tensor([[1], [0]]), d_sae=3)
    >>> codes.dense().tolist()
    [[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]
    >>> codes.scale_latents(torch.tensor([0.0, 1.0, 1.0])).dense().tolist()
    [[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, values_N: Tensor, latents_N: Tensor, offsets: Tensor, d_sae: int) -> None:
        self.values_N, self.latents_N, self.offsets, self.d_sae = values_N, latents_N, offsets, d_sae
        self._tokens_N: Tensor | None = None

    @classmethod
    def from_rows(cls, values_BK: Tensor, latents_BK: Tensor, d_sae: int) -> SparseCodes:
        """The same number of entries for each token."""
        tokens, count = values_BK.shape
        offsets = torch.arange(tokens + 1, device=values_BK.device) * count
        return cls(values_BK.flatten(), latents_BK.flatten(), offsets, d_sae)

    @classmethod
    def from_mask(cls, values_BF: Tensor, support_BF: Tensor) -> SparseCodes:
        """The values where the mask is true. On a GPU this waits for the number of entries."""
        return cls.from_places(values_BF, support_BF.flatten().nonzero().squeeze(-1))

    @classmethod
    def from_places(cls, values_BF: Tensor, places_N: Tensor) -> SparseCodes:
        """The values at places b · F + f, in ascending order."""
        tokens, d_sae = values_BF.shape
        token_of_N = places_N.div(d_sae, rounding_mode="floor")
        codes = cls(values_BF.flatten().index_select(0, places_N), places_N % d_sae, _offsets(token_of_N, tokens), d_sae)
        codes._tokens_N = token_of_N
        return codes

    @classmethod
    def from_dense(cls, values_BF: Tensor) -> SparseCodes:
        """What is not zero."""
        return cls.from_mask(values_BF, values_BF.detach() != 0)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.offsets) - 1, self.d_sae

    @property
    def tokens_N(self) -> Tensor:
        """The token that each entry belongs to."""
        if self._tokens_N is None:
            tokens = torch.arange(self.shape[0], device=self.offsets.device)
            self._tokens_N = tokens.repeat_interleave(self.offsets.diff(), output_size=len(self.latents_N))
        return self._tokens_N

    def dense(self) -> Tensor:
        zeros_BF = self.values_N.new_zeros(self.shape)
        return zeros_BF.index_put((self.tokens_N, self.latents_N), self.values_N)

    def held(self) -> Tensor:
        return self.values_N

    def l0_per_token(self) -> Tensor:
        firing_N = self.values_N.detach() != 0
        counted = torch.cat([self.offsets.new_zeros(1), firing_N.cumsum(0)])
        return counted[self.offsets].diff()

    def fired(self) -> Tensor:
        # No boolean indexing: on a GPU that would wait for the number of entries that fired.
        firing_N = (self.values_N.detach() != 0).to(self.latents_N.dtype)
        return self.latents_N.new_zeros(self.d_sae).index_add_(0, self.latents_N, firing_N)

    def weighted_l1(self, weights_F: Tensor) -> Tensor:
        return (in_full(self.values_N).abs() * in_full(weights_F)[self.latents_N]).sum() / self.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> SparseCodes:
        return self._with_values(function(self.values_N))

    def scale_latents(self, factors_F: Tensor) -> SparseCodes:
        return self._with_values(self.values_N * factors_F.to(self.values_N)[self.latents_N])

    def set_latent(self, latent: int, value: float | Tensor) -> SparseCodes:
        tokens = self.shape[0]
        every = torch.arange(tokens, device=self.offsets.device)
        set_B = torch.as_tensor(value).to(self.values_N).expand(tokens)
        others = self._keep(self.latents_N != latent, self.d_sae, 0)
        token_of = torch.cat([others.tokens_N, every])
        order = token_of.argsort(stable=True)
        values, latents = torch.cat([others.values_N, set_B]), torch.cat([others.latents_N, torch.full_like(every, latent)])
        return SparseCodes(values[order], latents[order], others.offsets + torch.arange(tokens + 1).to(every), self.d_sae)

    def narrow(self, start: int, stop: int) -> SparseCodes:
        return self._keep((self.latents_N >= start) & (self.latents_N < stop), stop - start, start)

    def select(self, tokens: Tensor) -> SparseCodes:
        numbers = tokens.nonzero().squeeze(-1) if tokens.dtype == torch.bool else tokens
        begins, counts = self.offsets[numbers], self.offsets.diff()[numbers]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        entries = torch.arange(int(offsets[-1]), device=offsets.device) + (begins - offsets[:-1]).repeat_interleave(counts)
        return SparseCodes(self.values_N[entries], self.latents_N[entries], offsets, self.d_sae)

    def __matmul__(self, weight_FD: Tensor) -> Tensor:
        return sparse_product(self.values_N, self.latents_N, self.tokens_N, self.offsets, weight_FD)

    def _with_values(self, values_N: Tensor) -> SparseCodes:
        codes = SparseCodes(values_N, self.latents_N, self.offsets, self.d_sae)
        codes._tokens_N = self._tokens_N
        return codes

    def _keep(self, kept_N: Tensor, d_sae: int, first: int) -> SparseCodes:
        """The entries of a mask, as codes of `d_sae` latents that begin at the latent `first`."""
        entries = kept_N.nonzero().squeeze(-1)
        token_of = self.tokens_N[entries]
        offsets = _offsets(token_of, self.shape[0])
        codes = SparseCodes(self.values_N[entries], self.latents_N[entries] - first, offsets, d_sae)
        codes._tokens_N = token_of
        return codes


def on_support(values_BF: Tensor, support_BF: Tensor) -> Codes:
    """Values that are zero, and have no gradient, off the support: sparse where few are on it, else as they are."""
    held = int(support_BF.sum())
    return DenseCodes(values_BF) if held > DENSE_FROM * support_BF.numel() else SparseCodes.from_mask(values_BF, support_BF)


def _offsets(token_of_N: Tensor, tokens: int) -> Tensor:
    """Where the entries of each token begin, given the token of each entry in ascending order [B + 1]."""
    return torch.searchsorted(token_of_N, torch.arange(tokens + 1, device=token_of_N.device))
