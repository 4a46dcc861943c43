"""Histograms: counts between edges, and what can be read off them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

_ALMOST_ALL = 0.999


class Histogram(BaseModel):
    """Counts between rising edges, one edge more than counts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    edges: tuple[float, ...]
    counts: tuple[float, ...]

    @model_validator(mode="after")
    def _edges_fit(self) -> Self:
        if not self.counts or len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"a histogram has one edge more than counts, and these are {len(self.edges)} and {len(self.counts)}")
        if not all(math.isfinite(value) for value in (*self.edges, *self.counts)):
            raise ValueError("the edges and counts of a histogram are finite")
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("the edges of a histogram rise")
        return self

    @property
    def total(self) -> float:
        return sum(self.counts)

    def bins(self) -> list[tuple[float, float, float]]:
        """Each bin as its lower edge, its upper edge, and its count."""
        return [(low, high, count) for (low, high), count in zip(pairwise(self.edges), self.counts, strict=True)]

    def quantile(self, share: float) -> float:
        """Where `share` of what was counted lies below, each bin taken as evenly filled; NaN if nothing was counted."""
        left = share * self.total
        if not left > 0:
            return math.nan
        for low, high, count in self.bins():
            if count >= left:
                return low + (high - low) * left / count
            left -= count
        return self.edges[-1]

    def of_whole_numbers(self) -> Histogram:
        """The same bins for a quantity that is whole: [3, 4) holds nothing but 3, so its bar stands over 3."""
        if any(edge != int(edge) for edge in self.edges):
            return self
        return Histogram(edges=tuple(edge - 0.5 for edge in self.edges), counts=self.counts)

    def without_tail(self) -> tuple[Histogram, float]:
        """The bins worth drawing, and how much lies above them.

        Empty bins at the upper end go; so does a thin tail that would take more than half of the width. A few tokens, such as
        the first of a document, often have many times the usual number of active latents.
        """
        filled = max((index for index, count in enumerate(self.counts) if count > 0), default=len(self.counts) - 1)
        almost_all = self.quantile(_ALMOST_ALL)
        body = next((index for index, edge in enumerate(self.edges[1:]) if edge >= almost_all), filled)
        start = self.edges[0]
        tail_is_long = self.edges[filled + 1] - start > 2 * (self.edges[body + 1] - start)
        last = body if tail_is_long else filled
        return Histogram(edges=self.edges[: last + 2], counts=self.counts[: last + 1]), sum(self.counts[last + 1 :])
