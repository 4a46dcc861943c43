"""Starting from what an earlier run left: its state, to extend it, or a saved SAE's weights, to fine-tune it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae.architecture import Architecture, load
from sae.architecture.folding import fold
from sae.architecture.normalizer import Normalizer
from sae.config import InputError

WHERE = "train.start_from"


def is_state(directory: Path) -> bool:
    """Whether a directory holds the state of a run, rather than a saved SAE.

    Raises:
        InputError: it holds neither.
    """
    if (directory / "state.json").exists():
        return True
    if (directory / "config.json").exists():
        return False
    raise InputError(
        "this directory holds neither a run's state nor a saved SAE",
        where=WHERE,
        found=str(directory),
        expected="state.json or config.json in it",
    )


@torch.no_grad()
def start_from_sae(architecture: Architecture[Any], directory: Path, normalizer: Normalizer) -> None:
    """Give an architecture the weights of a saved SAE, as they are behind a normaliser.

    Args:
        architecture: its parameters change. They must be the saved ones' by name and shape; buffers that the saved SAE
            lacks (such as a threshold that is learnt in training) stay as they are.
        directory: of the saved SAE.
        normalizer: what activations go through in the run that begins.

    Raises:
        InputError: the SAE does not fit.
    """
    saved = load(directory)
    source = saved.architecture
    if saved.normalizer is not None:
        if saved.normalizer.kind != normalizer.kind or normalizer.kind == "affine":
            raise InputError(
                "the saved SAE normalises its input by a step of its own, and this run does so otherwise",
                where=WHERE,
                found=str(directory),
                expected=f"train.normalize: {saved.normalizer.kind}",
            )
    elif not normalizer.is_identity:
        unfolded = fold(source, _inverse(normalizer)) if normalizer.kind == "affine" else None
        if unfolded is None:
            raise InputError(
                "the weights of this SAE can't be brought behind the run's normalisation",
                where=WHERE,
                found=str(directory),
                expected="train.normalize: none",
            )
        source = unfolded
    tensors, targets = source.canonical_tensors(), architecture.canonical_tensors()
    parameters = {name for name, tensor in targets.items() if isinstance(tensor, torch.nn.Parameter)}
    for name in tensors.keys() - targets.keys():
        if name.endswith(".bias") and float(tensors[name].abs().max()) < 1e-5:
            parameters.discard(name)  # folding had given an encoder a bias, and unfolding has taken it back to nothing
        else:
            parameters.add(name)
    fits = {n for n in parameters if n in targets and n in tensors and targets[n].shape == tensors[n].shape}
    if wrong := sorted(parameters - fits):
        raise InputError("the saved SAE does not fit this architecture", where=WHERE, found=", ".join(wrong))
    for name, target in targets.items():
        if name in tensors and tensors[name].shape == target.shape:
            target.copy_(tensors[name])


def _inverse(normalizer: Normalizer) -> Normalizer:
    """x = (x̂ - shift') · scale' for x̂ = (x - shift) · scale."""
    inverse = Normalizer("affine", normalizer.widths, normalizer.target_widths)
    inverse.shift_D, inverse.scale_D = -normalizer.shift_D * normalizer.scale_D, 1 / normalizer.scale_D
    inverse.shift_E, inverse.scale_E = -normalizer.shift_E * normalizer.scale_E, 1 / normalizer.scale_E
    return inverse
