"""A trained SAE as a directory, ``config.json`` and ``model.safetensors``, and back again. Never a pickle."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sae.architecture.architecture import Architecture
from sae.architecture.folding import fold
from sae.architecture.normalizer import Normalizer
from sae.codes import Codes
from sae.components.linear import EncoderLinear
from sae.components.parameters import LatentBias
from sae.config import InputError, nearest_name, parse_config

SCHEMA = 2
KEYS = {
    *("architecture", "config", "d_in", "d_sae", "d_out", "widths", "target_widths", "l0_target"),
    *("hook_points", "target_hook_points", "normalizer", "lineage"),
}


class TrainedSAE(nn.Module):
    """An SAE for use: the model in inference form, and what is known of it.

    Attributes:
        architecture: the declaration that it was built from.
        hook_points: where in the language model its activations come from.
        target_hook_points: where what it reconstructs comes from; the same places for an autoencoder.
        normalizer: what activations go through before the model; None where that is folded into the weights.
        trained_behind: what they went through in training, folded or not; None for nothing.
        lineage: hashes of all that it was made from.
    """

    def __init__(
        self,
        architecture: Architecture[Any],
        hook_points: list[str],
        lineage: dict[str, str],
        target_hook_points: list[str] | None = None,
        normalizer: Normalizer | None = None,
        trained_behind: Normalizer | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = architecture.trainable.model
        self.hook_points = hook_points
        self.target_hook_points = hook_points if target_hook_points is None else target_hook_points
        self.lineage = lineage
        self.normalizer = normalizer
        self.trained_behind = normalizer if trained_behind is None else trained_behind
        self.d_in, self.d_sae, self.d_out = architecture.d_in, architecture.d_sae, architecture.d_out
        self.eval().requires_grad_(False)

    def encode(self, x: Tensor) -> Codes:
        """Codes of activations [..., D], as [B, F] with all leading dimensions in one."""
        x_BD = x.reshape(-1, self.d_in)
        return self.model.encode(x_BD if self.normalizer is None else self.normalizer.normalize(x_BD))

    def decode(self, codes: Codes | Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction [B, d_out] of codes [B, F].

        Args:
            codes: as `encode` gives them.
            x: the activations [..., D] that they are of. An SAE behind a layer norm needs them, and a skip transcoder.

        Raises:
            SaeError: they are needed and missing.
        """
        if self.normalizer is None:
            return self.model.decode(codes, None if x is None else x.reshape(-1, self.d_in))
        x_BD = None if x is None else x.reshape(-1, self.d_in)
        output = self.model.decode(codes, None if x_BD is None else self.normalizer.normalize(x_BD))
        return self.normalizer.restore(output, x_BD)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction [..., d_out] of activations [..., D]."""
        return self.decode(self.encode(x), x).reshape(*x.shape[:-1], self.d_out)

    @property
    def decoder_rows_FD(self) -> Tensor:
        """The dictionary [F, d_out]."""
        weight: Tensor = self.architecture.init._decoder.raw.weight
        return weight


def import_architecture(reference: str, where: str) -> type[Architecture[Any]]:
    """The class that ``package.module:Class`` names.

    Raises:
        InputError: no such module or class, no valid Python, or it is no architecture.
    """
    module_name, _, class_name = reference.partition(":")
    if not module_name or module_name.startswith("."):
        raise InputError("this names no class", where=where, found=reference, expected="package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"no module {error.name!r} can be imported", where=where, found=reference, expected="package.module:Class"
        ) from None
    except SyntaxError as error:
        raise InputError(
            f"this is no valid Python: {error.msg} in {error.filename}, line {error.lineno}", where=where, found=reference
        ) from None
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Architecture)):
        known = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Architecture)]
        raise InputError("this names no Architecture", where=where, found=reference, nearest=nearest_name(class_name, known))
    return found


def save(
    architecture: Architecture[Any],
    directory: Path,
    *,
    hook_points: list[str],
    lineage: dict[str, str],
    target_hook_points: list[str] | None = None,
    normalizer: Normalizer | None = None,
) -> None:
    """Write the model of an architecture.

    What its activations were normalised by is folded into the weights; where that can't be (a layer norm, tied weights, a
    parameter of no declared kind) it is saved as a step of the model. Either way, the saved SAE takes activations as the
    language model gives them; and it tells what it was trained behind, for whoever trains it further.

    Args:
        architecture: with its trained weights.
        directory: to write into; it must exist.
        hook_points: where its activations come from.
        lineage: hashes of all that it was made from.
        target_hook_points: where its targets come from, if not from the same places.
        normalizer: what activations went through in training.
    """
    step: dict[str, Any] | None = None
    saved, tensors = architecture, {}
    if normalizer is not None and not normalizer.is_identity:
        folded = fold(architecture, normalizer)
        saved = architecture if folded is None else folded
        step = {"kind": normalizer.kind, "widths": normalizer.widths, "target_widths": normalizer.target_widths}
        step["folded"] = folded is not None
        tensors = {f"normalizer.{name}": tensor for name, tensor in normalizer.state_dict().items()}
    tensors |= saved.canonical_tensors()
    cls = type(architecture)
    config = {
        "schema": SCHEMA,
        "architecture": f"{cls.__module__}:{cls.__qualname__}",
        "config": architecture.cfg.model_dump(mode="json"),
        "d_in": architecture.d_in,
        "d_sae": architecture.d_sae,
        "d_out": architecture.d_out,
        "widths": architecture.widths,
        "target_widths": architecture.target_widths,
        "l0_target": architecture.l0_target,
        "hook_points": hook_points,
        "target_hook_points": hook_points if target_hook_points is None else target_hook_points,
        "normalizer": step,
        "lineage": lineage,
    }
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(directory: str | Path, device: str | torch.device = "cpu") -> TrainedSAE:
    """Load a saved SAE. Needs nothing but the directory: no pipeline, no data, no language model.

    Raises:
        InputError: the directory holds no SAE, or one of a newer schema, or its parts do not fit together.
    """
    directory = Path(directory)
    config = _read_config(directory / "config.json")
    tensors = _read_tensors(directory / "model.safetensors")
    cls = import_architecture(config["architecture"], str(directory / "config.json"))
    architecture = cls(
        parse_config(cls.config_class, config["config"], str(directory / "config.json")),
        d_in=config["d_in"],
        d_sae=config["d_sae"],
        d_out=config["d_out"],
        widths=config["widths"],
        target_widths=config["target_widths"],
        l0_target=config["l0_target"],
    )
    _give_biases(architecture, tensors)
    targets = architecture.canonical_tensors()
    step = config["normalizer"]
    behind = None if step is None else Normalizer(step["kind"], step["widths"], step["target_widths"])
    if behind is not None:
        targets |= {f"normalizer.{name}": tensor for name, tensor in behind.state_dict().items()}
    if wrong := sorted(
        n for n in targets.keys() | tensors.keys() if n not in targets or n not in tensors or targets[n].shape != tensors[n].shape
    ):
        raise InputError("these tensors do not fit the architecture", where=str(directory), found=", ".join(wrong))
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])
    normalizer = None if step is None or step["folded"] else behind
    more = (config["hook_points"], config["lineage"], config["target_hook_points"], normalizer, behind)
    return TrainedSAE(architecture, *more).to(device)


def _give_biases(architecture: Architecture[Any], tensors: dict[str, Tensor]) -> None:
    """Give an encoder that is declared without a bias the one that folding has given it."""
    for path, module in architecture.core_model.named_modules():
        if isinstance(module, EncoderLinear) and module.bias is None:
            main = module is architecture.init._encoder.raw  # as in `canonical_tensors`
            bias_F = tensors.get("encoder.bias" if main else f"{path}.bias".replace("wrapped.", ""))
            if bias_F is not None:
                module.bias = LatentBias(torch.zeros_like(bias_F))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"this directory holds no saved SAE: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"this saved SAE is damaged: {error}", where=str(path)) from None
    schema = config.get("schema") if isinstance(config, dict) else None
    if schema is None:
        raise InputError("this is no config of a saved SAE: it names no schema", where=str(path))
    if schema != SCHEMA:
        raise InputError("this SAE was saved with another schema", where=str(path), found=schema, expected=SCHEMA)
    if lacking := sorted(KEYS - config.keys()):
        raise InputError("this saved SAE is damaged: keys are missing", where=str(path), expected=", ".join(lacking))
    return dict(config)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        raise InputError(f"this directory holds no saved SAE: {error.strerror or error}", where=str(path)) from None
    except SafetensorError as error:
        raise InputError(f"this saved SAE is damaged: {error}", where=str(path)) from None
