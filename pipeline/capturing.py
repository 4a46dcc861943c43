"""Capturing in a workspace: what to capture there, and processes beside this one that help."""

from __future__ import annotations

import dataclasses
import json
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

SUBJECT = "data/inputs/subject.json"
STREAM = "stream.json"
SAMPLE_TOKENS = 131_072
HELP = "SAE_CAPTURE_FOR"  # in a helper's environment: the process that it works for


def captures(ctx: StageContext, config: ActivationsConfig, subject: SubjectConfig) -> dict[str, Capture]:
    """The captures of both splits, which go on where an earlier one stopped. A stream's training split is a sample.

    Args:
        ctx: of the stage `activations`.
        config: its section.
        subject: the other one.
    """
    transformers_logging.disable_progress_bar()
    device = ctx.run.torch_device()
    model = load_model(subject, ctx.read_json(SUBJECT)["revision"], device)
    made = {}
    for split in SPLITS:
        tokens = TokenSet.load(ctx.root / "data/tokens" / split)
        if config.store == "stream" and split == "train":
            tokens = sample_of(tokens)
        made[split] = Capture(model, tokens, config, ctx.work / "activations" / split, split=split, inputs=inputs_of(ctx, split))
    return made


def sample_of(tokens: TokenSet) -> TokenSet:
    """Sequences in equal distances: what a stream keeps for the figures that need training rows (mean, PCA)."""
    count = min(len(tokens.tokens_SC), max(1, SAMPLE_TOKENS // tokens.tokens_SC.shape[1]))
    chosen_S = torch.linspace(0, len(tokens.tokens_SC) - 1, count).round().long()
    columns = {name: getattr(tokens, name)[chosen_S] for name in ("tokens_SC", "document_SC", "position_SC")}
    lengths_S = None if tokens.lengths_S is None else tokens.lengths_S[chosen_S]
    return dataclasses.replace(tokens, **columns, lengths_S=lengths_S)


def inputs_of(ctx: StageContext, split: str) -> dict[str, str]:
    """Hashes of all that goes into a split's activations."""
    fingerprint = ctx.read_json(SUBJECT)
    return {
        "subject": fingerprint.get("sha256") or fingerprint["revision"],
        "tokens": ctx.read_json(f"data/tokens/{split}/tokens.json")["sha256"],
    }


def save_stream(ctx: StageContext, config: ActivationsConfig, subject: SubjectConfig, directory: Path) -> None:
    """Leave word for the train stage of what to stream (`pipeline.streaming`).

    Hashes of all that goes in stand there, since that stage does not depend on them by itself.
    """
    word = {
        "activations": config.model_dump(mode="json"),
        "subject": subject.model_dump(mode="json"),
        "revision": ctx.read_json(SUBJECT)["revision"],
        "inputs": inputs_of(ctx, "train"),
        "code": ctx.code_hash(),
    }
    (directory / STREAM).write_text(json.dumps(word, indent=2) + "\n")


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
