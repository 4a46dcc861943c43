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
    """Give an architecture the weights of a saved SAE, and a normaliser the statistics that it was trained behind.

    With others, rows that are held to unit norm would not have it, and the SAE would change before its first step.

    Args:
        architecture: its parameters change. They must be the saved ones' by name and shape; buffers that the saved SAE
            lacks (such as a threshold that is learnt in training) stay as they are.
        directory: of the saved SAE.
        normalizer: of the run that begins; its statistics change.

    Raises:
        InputError: the SAE does not fit.
    """
    saved = load(directory)
    behind = saved.trained_behind or Normalizer("affine", normalizer.widths, normalizer.target_widths)
    if behind.kind != normalizer.kind:
        raise InputError(
            "the saved SAE was trained behind another kind of normalisation",
            where=WHERE,
            found=str(directory),
            expected="train.normalize: " + ("layer_norm" if behind.kind == "layer_norm" else "none, sqrt_d or per_dim"),
        )
    shapes = [(n.widths, n.target_widths) for n in (behind, normalizer)]
    if shapes[0] != shapes[1] or (saved.d_in, saved.d_out) != (architecture.d_in, architecture.d_out):
        raise InputError(
            "the saved SAE is of activations of other widths",
            where=WHERE,
            found=f"inputs {shapes[0][0]}, targets {shapes[0][1]}",
            expected=f"inputs {shapes[1][0]}, targets {shapes[1][1]}",
        )
    normalizer.load_state_dict(behind.state_dict())
    source = saved.architecture
    if saved.normalizer is None and not behind.is_identity:
        unfolded = fold(source, _inverse(behind))
        if unfolded is None:
            raise InputError("the normalisation of this SAE can't be taken out of its weights", where=WHERE, found=str(directory))
        source = unfolded
    tensors, targets = source.canonical_tensors(), architecture.canonical_tensors()
    parameters = {name for name, tensor in targets.items() if isinstance(tensor, torch.nn.Parameter)}
    given = saved.architecture.canonical_tensors()
    for name in tensors.keys() - targets.keys():
        # Folding gives an encoder that is declared without a bias one, and unfolding takes that back to nothing.
        nothing = 1e-4 * float(given[name].abs().max()) if name in given else 1e-4
        if not (name.endswith(".bias") and float(tensors[name].abs().max()) <= nothing):
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
