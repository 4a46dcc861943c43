"""Stages of a toy project: they do little, write down what they did outside of the project, and fail when told to.

    python stages.py STAGE

The folder `TOY_OUTSIDE` has the account, `log`, and faults as files: `train-1` holds what befalls `train` with the seed 1.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

OUTSIDE = Path(os.environ["TOY_OUTSIDE"])
STEPS = 5


def tell(text: str) -> None:
    """Write a line into the account."""
    with (OUTSIDE / "log").open("a") as log:
        log.write(text + "\n")


def fault(name: str) -> str:
    """What is to happen to a stage; empty if nothing is."""
    try:
        return (OUTSIDE / name).read_text()
    except FileNotFoundError:
        return ""


def misbehave(name: str) -> None:
    """Wait while the fault says so, and then go on, or fail."""
    if fault(name) == "wait":
        tell(f"{name} waits, {os.getpid()}")
    while (kind := fault(name)) == "wait":
        time.sleep(0.02)
    if kind == "fail":
        sys.exit(f"{name} is told to fail")
    if kind == "mistake":
        print("error: train.lr: this is what the user did wrong", file=sys.stderr)
        sys.exit(2)
    if kind == "full":
        try:
            Path("/dev/full").write_text("more than fits")
        except OSError as error:
            sys.exit(f"error: {error}")
    if kind == "fill":
        tell(f"{name} fills the disk")
        with Path(".work/ballast").open("wb", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))
    if kind == "slow":
        tell(f"{name} waits, {os.getpid()}")
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            time.sleep(5)
            tell(f"{name} took its time")
            raise
    if kind == "deaf":
        tell(f"{name} hears nothing, {os.getpid()}")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


def write(folder: str, **values: Any) -> None:
    """Write an output's JSON file."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    (Path(folder) / "metrics.json").write_text(json.dumps(values) + "\n")


def activations(params: dict[str, Any]) -> None:
    """What the texts are made of."""
    name = f"activations-{params['tokens']['context']}"
    tell(f"{name} begins")
    texts = b"".join(path.read_bytes() for path in sorted(Path("corpus").glob("*.txt")))
    misbehave(name)
    write("data/activations", texts=hashlib.sha256(texts).hexdigest(), context=params["tokens"]["context"])


def train(params: dict[str, Any]) -> None:
    """Some steps, with a checkpoint after each."""
    seed = params["train"]["seed"]
    name = f"train-{seed}"
    texts = json.loads(Path("data/activations/metrics.json").read_text())
    key = hashlib.sha256(json.dumps([params["train"], texts]).encode()).hexdigest()
    state = Path(f".work/train/{key}.json")
    state.parent.mkdir(parents=True, exist_ok=True)
    done: list[str] = json.loads(state.read_text()) if state.exists() else [key]
    tell(f"{name} begins at step {len(done) - 1}")
    first = len(done)
    for step in range(first, STEPS + 1):
        done.append(hashlib.sha256(done[-1].encode()).hexdigest())
        fresh = state.with_suffix(".new")
        fresh.write_text(json.dumps(done))
        fresh.replace(state)
        if step == max(first, STEPS // 2):
            misbehave(name)
    write("data/sae", weights=done)
    write("data/train", loss=int(done[-1][:4], 16))
    state.unlink()
    tell(f"{name} ends")


def evaluate(params: dict[str, Any]) -> None:
    """A number for what was trained."""
    weights = json.loads(Path("data/sae/metrics.json").read_text())["weights"]
    write("data/evaluation", l0=int(weights[-1][4:8], 16), fvu=params["train"]["seed"] / 8)


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]](YAML(typ="safe", pure=True).load(Path("params.yaml").read_text()))
    except KeyboardInterrupt:
        sys.exit(130)
