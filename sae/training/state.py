"""`TrainState`: all that a run needs to go on, in one object, saved as safetensors and JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae.architecture import Trainable
from sae.config import Failure
from sae.training.l0_targeting import L0Controller


class TrainState:
    """Weights, trackers, optimizer, controller, step and training curves of a run.

    The step is also the cursor of the source of batches, whose order is a function of seed and step alone; the same holds
    for every generator that training uses.
    """

    def __init__(self, trainable: Trainable, optimizer: torch.optim.Optimizer, controller: L0Controller) -> None:
        self.trainable = trainable
        self.optimizer = optimizer
        self.controller = controller
        self.step = 0
        self.history: list[tuple[int, dict[str, float]]] = []

    def save(self, directory: Path) -> None:
        """Save into a new folder, sync it, rename it into place, and drop what was there before."""
        fresh, stale = directory.with_name(directory.name + ".new"), directory.with_name(directory.name + ".old")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}, fresh / "state.safetensors"
        )
        meta = {"step": self.step, "controller": self.controller.state(), "history": self.history}
        (fresh / "state.json").write_text(json.dumps(meta))
        for file in fresh.iterdir():
            _sync(file)
        shutil.rmtree(stale, ignore_errors=True)
        if directory.exists():
            directory.rename(stale)
        fresh.rename(directory)
        _sync(directory.parent)
        shutil.rmtree(stale, ignore_errors=True)

    def restore(self, directory: Path) -> bool:
        """Go on from what `save` left in a directory. Returns whether there was anything.

        Raises:
            Failure: a file is missing or damaged, or it is the state of another model.
        """
        stale = directory.with_name(directory.name + ".old")
        if not directory.exists() and stale.exists():
            stale.rename(directory)  # the save was cut off between its two renames
        if not directory.exists():
            return False
        try:
            meta = json.loads((directory / "state.json").read_text())
            with safe_open(directory / "state.safetensors", framework="pt") as file:
                saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, ValueError, SafetensorError) as error:
            raise Failure(
                f"this checkpoint is damaged: {error}", where=str(directory), expected="to begin anew, delete it"
            ) from None
        tensors = self._model_tensors()
        if wrong := [name for name, tensor in tensors.items() if name not in saved or saved[name].shape != tensor.shape]:
            raise Failure("this checkpoint is of another model", where=str(directory), found=", ".join(wrong))
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(saved[name])
        for index, parameter in enumerate(self._parameters()):
            prefix = f"optimizer/{index}/"
            entries = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
            # The step counts too: the fused optimizer keeps them beside the parameter.
            self.optimizer.state[parameter] = {key: tensor.to(parameter.device) for key, tensor in entries.items()}
        self.step = meta["step"]
        self.controller.restore(meta["controller"])
        self.history = [(step, figures) for step, figures in meta["history"]]
        return True

    def _tensors(self) -> dict[str, Tensor]:
        optimizer = {
            f"optimizer/{index}/{key}": value
            for index, parameter in enumerate(self._parameters())
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        return {name: tensor.detach().clone() for name, tensor in (self._model_tensors() | optimizer).items()}

    def _model_tensors(self) -> dict[str, Tensor]:
        return dict(self.trainable.named_parameters()) | dict(self.trainable.named_buffers())

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
