"""`TrainState`: all that a run needs to go on, in one object, saved as safetensors and JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae.architecture import Trainable
from sae.architecture.normalizer import Normalizer
from sae.config import Failure, InputError
from sae.training.averaging import WeightAverage
from sae.training.early_stopping import EarlyStopping
from sae.training.l0_targeting import L0Controller


class TrainState:
    """Weights, trackers, normaliser, optimizer, controller, step and training curves of a run.

    The step is also the cursor of the source of batches, whose order is a function of seed and step alone; the same holds
    for every generator that training uses.
    """

    def __init__(
        self,
        trainable: Trainable,
        normalizer: Normalizer,
        optimizer: torch.optim.Optimizer,
        controller: L0Controller,
        scaler: torch.amp.GradScaler,
        average: WeightAverage | None,
        stopping: EarlyStopping,
    ) -> None:
        self.trainable, self.normalizer, self.optimizer, self.controller = trainable, normalizer, optimizer, controller
        self.scaler, self.average, self.stopping = scaler, average, stopping
        self.step = 0
        self.history: list[tuple[int, dict[str, float]]] = []

    def save(self, directory: Path) -> None:
        """Save into a new folder, sync it, rename it into place, and drop what was there before."""
        fresh, stale = directory.with_name(directory.name + ".new"), directory.with_name(directory.name + ".old")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        save_file(tensors, fresh / "state.safetensors")
        meta = {
            "step": self.step,
            "normalizer": self.normalizer.kind,
            "controller": self.controller.state(),
            "optimizer": [_moved(group, self.optimizer.defaults) for group in self.optimizer.param_groups],
            "scaler": self.scaler.state_dict(),
            "stopping": self.stopping.state(),
            "history": self.history,
        }
        (fresh / "state.json").write_text(json.dumps(meta))
        for path in (*fresh.iterdir(), fresh):
            _sync(path)
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
            InputError: it is the state of a run behind another kind of normaliser.
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
        if meta["normalizer"] != self.normalizer.kind:
            raise InputError(
                f"the state in {directory} is of a run that was normalised otherwise",
                where="train.normalize",
                found=self.normalizer.kind,
                expected=meta["normalizer"],
            )
        tensors = self._own_tensors()
        if wrong := [name for name, tensor in tensors.items() if name not in saved or saved[name].shape != tensor.shape]:
            raise Failure("this checkpoint is of another model", where=str(directory), found=", ".join(wrong))
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(saved[name])
        # Counts of steps stay on the CPU, but for the fused optimizers', which stand beside the parameter.
        fused = bool(self.optimizer.defaults.get("fused"))
        for index, parameter in enumerate(self._parameters()):
            prefix = f"optimizer/{index}/"
            entries = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
            self.optimizer.state[parameter] = {
                key: tensor.to(parameter.device) if fused or tensor.ndim else tensor for key, tensor in entries.items()
            }
        for group, scalars in zip(self.optimizer.param_groups, meta["optimizer"], strict=True):
            group.update(scalars)
        self.step = meta["step"]
        self.controller.restore(meta["controller"])
        if meta["scaler"]:
            self.scaler.load_state_dict(meta["scaler"])
        self.stopping.restore(meta["stopping"])
        self.history = [(step, figures) for step, figures in meta["history"]]
        return True

    def _tensors(self) -> dict[str, Tensor]:
        optimizer = {
            f"optimizer/{index}/{key}": value
            for index, parameter in enumerate(self._parameters())
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        return {name: tensor.detach().clone() for name, tensor in (self._own_tensors() | optimizer).items()}

    def _own_tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = dict(self.trainable.named_parameters()) | dict(self.trainable.named_buffers())
        tensors |= {f"normalizer/{name}": buffer for name, buffer in self.normalizer.named_buffers()}
        if self.average is not None:
            tensors |= {f"average/{name}": tensor for name, tensor in self.average.weights.items()}
        return tensors

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _moved(group: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What a group holds that is no longer as the optimizer was made (`schedule_free` counts its steps there)."""
    return {key: value for key, value in group.items() if type(value) in (int, float, bool) and value != defaults.get(key)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
