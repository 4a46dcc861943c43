"""What a user may choose about the report."""

from __future__ import annotations

from pydantic import Field

from sae.config import SweepableConfig


class ReportConfig(SweepableConfig):
    """How the page looks."""

    title: str = Field(
        default="Sparse autoencoder", min_length=1, description="Heading of the page and of the picture that sums up."
    )
    examples: int = Field(
        default=4, ge=1, description="Examples of a latent that are open at once; the others are one click away."
    )
