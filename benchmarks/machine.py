"""What a benchmark says of the machine that it ran on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """Processor, accelerator, versions and date."""
    return {
        "cpu": f"{cpu()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
