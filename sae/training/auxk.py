"""AuxK: latents that have gone silent learn to reconstruct what the others miss.

Shapes: B tokens in a batch, D dimensions of the targets, F latents, N dead ones, K candidates.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from sae.architecture import SAE
from sae.codes import SparseCodes
from sae.config import SaeError, SweepableConfig
from sae.core import Cache, run


class AuxKConfig(SweepableConfig):
    """The auxiliary loss for dead latents."""

    coefficient: float = Field(default=1 / 32, gt=0, description="Weight of the auxiliary loss.")
    k: int | None = Field(default=None, gt=0, description="Dead latents that take part on a token; d_in / 2 if left out.")


def auxk_loss(model: SAE, y_BD: Tensor, reconstruction_BD: Tensor, record: Cache, dead_F: Tensor, k: int) -> Tensor:
    """Σ (e - ê)² / Σ (e - ē)²: the model's error e, and ê, what the dead latents make of it.

    ê decodes, without the decoder's bias, the k dead latents with the largest pre-activations, where these are positive.
    The error is cut off from the graph; the pre-activations are not, so encoder and decoder rows of dead latents both
    learn. Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix A.2; the division by the
    variance of the error is not in the paper, but in the code of its authors and in dictionary_learning. A latent whose
    pre-activations are all negative, as under an L1 penalty, gets no gradient from this: it needs resampling.

    Args:
        model: the SAE.
        y_BD: what it was to reconstruct.
        reconstruction_BD: what it did.
        record: the scope that it ran in.
        dead_F: mask of the dead latents; at least one.
        k: how many of them take part on a token.
    """
    preacts_BF = preactivations(record)
    error_BD = (y_BD - reconstruction_BD).detach()
    dead_N = dead_F.nonzero().squeeze(-1)
    values_BK, chosen_BK = preacts_BF[:, dead_N].topk(min(k, len(dead_N)), dim=-1, sorted=False)
    latents_BK = dead_N[chosen_BK]
    codes = SparseCodes.from_rows(values_BK.relu(), latents_BK, preacts_BF.shape[-1])
    nothing = SparseCodes.from_rows(values_BK[:, :0], latents_BK[:, :0], preacts_BF.shape[-1])
    # The decoder without its bias, whatever the decoder is made of; the bias gets no gradient, since it cancels.
    made_BD = run(model.decoder, codes, Cache()["decoder"]) - run(model.decoder, nothing, Cache()["decoder"])
    variance = (error_BD - error_BD.mean(0)).square().sum()
    loss: Tensor = (error_BD - made_BD).square().sum() / variance.where(variance > 0, 1)
    return loss


def preactivations(record: Cache) -> Tensor:
    """The pre-activations [B, F] of the step: what stood before the nonlinearity, else what the encoder's rows gave.

    Raises:
        SaeError: the model recorded neither.
    """
    for wanted in ("preacts", "projection"):
        for path, value in record.values().items():
            if path.split("/")[-1] == wanted and isinstance(value, Tensor) and value.ndim == 2:
                return value
    raise SaeError(
        "AuxK finds no pre-activations",
        where="train.dead_latents",
        expected="SAE(encoder_pre=…, nonlinearity=…), or an encoder from self.init",
    )
