"""What a user may choose about the report."""

from __future__ import annotations

from pydantic import Field

from sae.config import SweepableConfig


class ReportConfig(SweepableConfig):
    """Section ``report`` of ``params.yaml``.

    Attributes:
        title: heading of the page, and of the picture that sums the run up.
        examples: how many examples of a latent are open at once; the others are one click away.
    """

    title: str = Field(default="Sparse autoencoder", min_length=1)
    examples: int = Field(default=4, ge=1)
