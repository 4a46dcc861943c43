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
from sae.codes import Codes
from sae.components.parameters import SAEParameter
from sae.config import Failure, InputError, nearest_name, parse_config

SCHEMA = 1


class TrainedSAE(nn.Module):
    """An SAE for use: the model in inference form, and what is known of it.

    Attributes:
        architecture: the declaration that it was built from.
        hook_points: where in the language model its activations come from.
        lineage: hashes of all that it was made from.
    """

    def __init__(self, architecture: Architecture[Any], hook_points: list[str], lineage: dict[str, str]) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = architecture.trainable.model
        self.hook_points = hook_points
        self.lineage = lineage
        self.d_in, self.d_sae, self.d_out = architecture.d_in, architecture.d_sae, architecture.d_out
        self.eval().requires_grad_(False)

    def encode(self, x_BD: Tensor) -> Codes:
        """Codes of activations [..., D], as [B, F] with all leading dimensions in one."""
        return self.model.encode(x_BD.reshape(-1, self.d_in))

    def decode(self, codes: Codes | Tensor) -> Tensor:
        """Reconstruction [B, d_out] of codes [B, F]."""
        return self.model.decode(codes)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction [..., d_out] of activations [..., D]."""
        return self.decode(self.encode(x)).reshape(*x.shape[:-1], self.d_out)

    @property
    def decoder_rows_FD(self) -> Tensor:
        """The dictionary [F, d_out]."""
        weight: Tensor = self.architecture.init._decoder.raw.weight
        return weight


def import_architecture(reference: str, where: str) -> type[Architecture[Any]]:
    """The class that ``package.module:Class`` names.

    Raises:
        InputError: no such module or class, or it is no architecture.
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
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Architecture)):
        known = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Architecture)]
        raise InputError("this names no Architecture", where=where, found=reference, nearest=nearest_name(class_name, known))
    return found


def save(
    architecture: Architecture[Any], directory: Path, *, hook_points: list[str], lineage: dict[str, str], input_scale: float = 1.0
) -> None:
    """Write the model of an architecture.

    Args:
        architecture: with its trained weights.
        directory: to write into; it must exist.
        hook_points: where its activations come from.
        lineage: hashes of all that it was made from.
        input_scale: what the activations were multiplied by in training. It is folded into the weights, so that the
            saved model takes activations as the language model gives them.
    """
    tensors = {}
    for name, tensor in architecture.canonical_tensors().items():
        if input_scale != 1.0 and isinstance(tensor, nn.Parameter) and not isinstance(tensor, SAEParameter):
            raise Failure(
                "the normalisation can't be folded into a parameter of no declared kind",
                where=name,
                expected="one of sae.components.parameters, or train.normalize: none",
            )
        factor = input_scale**-tensor.data_power if isinstance(tensor, SAEParameter) else 1.0
        tensors[name] = (tensor.detach() * factor if factor != 1.0 else tensor.detach()).cpu().contiguous()
    cls = type(architecture)
    config = {
        "schema": SCHEMA,
        "architecture": f"{cls.__module__}:{cls.__qualname__}",
        "config": architecture.cfg.model_dump(mode="json"),
        "d_in": architecture.d_in,
        "d_sae": architecture.d_sae,
        "d_out": architecture.d_out,
        "l0_target": architecture.l0_target,
        "hook_points": hook_points,
        "folded_input_scale": input_scale,
        "lineage": lineage,
    }
    save_file(tensors, directory / "model.safetensors")
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
        l0_target=config["l0_target"],
    )
    targets = architecture.canonical_tensors()
    if wrong := sorted(
        n for n in targets.keys() | tensors.keys() if n not in targets or n not in tensors or targets[n].shape != tensors[n].shape
    ):
        raise InputError("these tensors do not fit the architecture", where=str(directory), found=", ".join(wrong))
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])
    return TrainedSAE(architecture, config["hook_points"], config["lineage"]).to(device)


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
    if lacking := sorted(
        {"architecture", "config", "d_in", "d_sae", "d_out", "l0_target", "hook_points", "lineage"} - config.keys()
    ):
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
