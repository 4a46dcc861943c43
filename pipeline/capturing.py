"""Capturing in a workspace: what to capture there, and processes beside this one that help."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from pipeline.stage import StageContext
from sae.activations.capture import ActivationsConfig, Capture
from sae.activations.model import load_model
from sae.config import Failure
from sae.corpus.subject import SubjectConfig
from sae.corpus.tokens import SPLITS, TokenSet

HELP = "SAE_CAPTURE_FOR"  # in a helper's environment: the process that it works for


def captures(ctx: StageContext, parts: Path | None = None) -> dict[str, Capture]:
    """The captures of both splits, which go on where an earlier one stopped.

    Args:
        ctx: of the stage `activations`.
        parts: folder for the unfinished parts; in the stage's own folder of unfinished work if left out.
    """
    transformers_logging.disable_progress_bar()
    config, subject = ctx.section("activations", ActivationsConfig), ctx.section("subject", SubjectConfig)
    device = ctx.run.torch_device()
    fingerprint = ctx.read_json("data/inputs/subject.json")
    model = load_model(subject, fingerprint["revision"], device)
    made = {}
    for split in SPLITS:
        inputs = {
            "subject": fingerprint.get("sha256") or fingerprint["revision"],
            "tokens": ctx.read_json(f"data/tokens/{split}/tokens.json")["sha256"],
        }
        tokens = TokenSet.load(ctx.root / "data/tokens" / split)
        where = None if parts is None else parts / split
        made[split] = Capture(model, tokens, config, ctx.work / "activations" / split, split=split, inputs=inputs, parts=where)
    return made


@contextmanager
def helpers(command: list[str], workers: int) -> Iterator[None]:
    """Inside the block, `workers` - 1 more processes capture parts; where there are several GPUs, each has its own.

    Args:
        command: a module and its arguments, which calls `help_out`.
        workers: processes in all.

    Raises:
        Failure: a helper failed; its error has been printed.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    processes = []
    for index in range(1, workers):
        environment = {**os.environ, HELP: str(os.getpid())}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _visible()[index % gpus]
        processes.append(subprocess.Popen([sys.executable, "-m", *command], env=environment))
    try:
        yield
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()
    if any(statuses):
        raise Failure("a process that helped to capture ended with an error", found=f"exit status {max(statuses, key=abs)}")


def helping() -> bool:
    """Whether this process is a helper."""
    return HELP in os.environ


def unless_orphaned(progress: Callable[[int], None]) -> Callable[[int], None]:
    """A helper's progress: it ends when the process that it works for is gone."""
    employer = os.environ.get(HELP)

    def checked(rows: int) -> None:
        if employer is not None and str(os.getppid()) != employer:
            raise SystemExit(1)
        progress(rows)

    return checked


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
