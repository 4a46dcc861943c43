"""The `run` section of params.yaml: how a run is done, not what. Only `threads` may change a result's bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sae.config import InputError, SweepableConfig

if TYPE_CHECKING:
    import torch


class RemoteConfig(SweepableConfig):
    """What machines without a shared disk have in common, for sweeps."""

    git: str = Field(description="A git remote: plans, leases, records and experiments go there.")
    dvc: str = Field(description="A DVC remote, of any kind: outputs, run cache and checkpoints go there.")
    checkpoint_seconds: float = Field(
        default=300, gt=0, description="Between two checkpoints that are sent, for when a machine is lost."
    )


class RunConfig(SweepableConfig):
    """How the stages run on this machine."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="`auto` is CUDA where there is one, else the CPU."
    )
    threads: int = Field(default=2, gt=0, description="CPU threads; sums are taken in another order with another number.")
    workers: int = Field(
        default=1, gt=0, description="Processes that capture activations side by side; with several GPUs, one on each."
    )
    log: list[Literal["dvclive"]] = Field(default=["dvclive"], description="Where training curves go.")
    remote: RemoteConfig | None = Field(default=None, description="Where agents on machines of their own meet.")
    grace: float = Field(default=10, gt=0, description="Seconds that training has to save its state once it is told to stop.")

    def torch_device(self) -> torch.device:
        """Set the number of threads and return the device.

        Raises:
            InputError: the device that was asked for is not there.
        """
        import torch

        torch.set_num_threads(self.threads)
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if self.device == "auto":
            return torch.device("cuda" if there["cuda"] else "cpu")
        if not there[self.device]:
            available = ", ".join(name for name, ok in there.items() if ok)
            raise InputError(
                "this machine has no such device", where="run.device", found=self.device, expected=f"auto, {available}"
            )
        return torch.device(self.device)
