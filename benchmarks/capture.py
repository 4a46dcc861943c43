"""How fast activations are captured, against the bare forward pass of the same model, and against SAELens.

    PYTHONPATH=. python benchmarks/capture.py

Run it after `make run` and `make peers`. Three ways to send the same sequences through the subject, with the same batches, taking
turns: the forward pass alone, stopped after the hook point's module, its activations thrown away; our capture, which is split
into its two phases (parts: the model at work; shards: shuffling, checksums, manifest); and SAELens' `CacheActivationsRunner`,
which writes a shuffled Arrow dataset. Medians; the model is loaded before the clock starts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import machine
from sae.activations.capture import ActivationsConfig, Capture
from sae.activations.hook_points import find_hook_points
from sae.activations.model import load_model, read_activations
from sae.config import InputError
from sae.corpus.subject import SubjectConfig
from sae.corpus.tokens import TokenSet

HERE = Path(__file__).parent
WORK = HERE.parent / ".work/capture_benchmark"
HOOK_POINT = "model.layers.1"
SEQUENCES, PEER_SEQUENCES, BATCH, REPETITIONS = 1600, 640, 32, 5  # theirs is slow: a part of the sequences, once


def bare(model: torch.nn.Module, tokens: TokenSet) -> float:
    """Seconds of the forward passes alone."""
    points = find_hook_points(model, [HOOK_POINT])
    began = time.perf_counter()
    for start in range(0, len(tokens.tokens_SC), BATCH):
        read_activations(model, points, tokens.tokens_SC[start : start + BATCH])
    return time.perf_counter() - began


def captured(model: torch.nn.Module, tokens: TokenSet) -> tuple[float, float]:
    """Seconds of our capture: of its parts, and of its shards."""
    directory = WORK / "ours"
    shutil.rmtree(directory, ignore_errors=True)
    config = ActivationsConfig(hook_points=[HOOK_POINT], batch_size=BATCH)
    work = Capture(model, tokens, config, directory, split="train", inputs={})
    began = time.perf_counter()
    work.write_parts()
    middle = time.perf_counter()
    work.finish()
    return middle - began, time.perf_counter() - middle


def of_sae_lens(model: str, tokens: TokenSet) -> float:
    """Seconds of SAELens' runner, in its own environment, for as many tokens as the others get."""
    directory = WORK / "sae_lens"
    shutil.rmtree(directory, ignore_errors=True)
    np.save(WORK / "tokens.npy", tokens.tokens_SC[:PEER_SEQUENCES].numpy())
    command = [
        ".peers/bin/python",
        "benchmarks/capture_peer.py",
        model,
        HOOK_POINT,
        f"{WORK}/tokens.npy",
        str(directory),
        str(BATCH),
    ]
    done = subprocess.run(
        command, cwd=HERE.parent, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result = json.loads(done.stdout.splitlines()[-1])
    return float(result["seconds"]) * tokens.tokens_SC.numel() / result["tokens"]


def main() -> None:
    torch.set_num_threads(2)
    path = HERE.parent / "data/tokens/train"
    if not path.exists():
        raise InputError("there are no tokens", where=str(path), expected="make run")
    every = TokenSet.load(path)
    columns = {name: getattr(every, name)[:SEQUENCES] for name in ("tokens_SC", "document_SC", "position_SC")}
    tokens = dataclasses.replace(every, **columns)
    subject = SubjectConfig()
    model = load_model(subject, None, torch.device("cpu"))
    WORK.mkdir(parents=True, exist_ok=True)
    bare(model, tokens)  # warms up
    seconds: dict[str, list[float]] = {"bare": [], "parts": [], "shards": [], "sae_lens": []}
    for _ in range(REPETITIONS):
        seconds["bare"].append(bare(model, tokens))
        parts, shards = captured(model, tokens)
        seconds["parts"].append(parts)
        seconds["shards"].append(shards)
    seconds["sae_lens"].append(of_sae_lens(subject.model, tokens))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    median["whole"] = statistics.median(map(sum, zip(seconds["parts"], seconds["shards"], strict=True)))
    count = tokens.tokens_SC.numel()
    names = {
        "bare": "forward alone, stopped after the module",
        "parts": "capture, its parts",
        "whole": "capture, the whole store",
        "sae_lens": "SAELens 6.54.12, `CacheActivationsRunner`",
    }
    lines = [
        "# Capture",
        "",
        "Written by `benchmarks/capture.py`, which says what is measured. "
        + ", ".join(f"{name} {value}" for name, value in machine().items())
        + f"; 2 threads; {count:,} tokens in sequences of {tokens.tokens_SC.shape[1]}, batches of {BATCH}, float16; "
        f"SAELens got {PEER_SEQUENCES * tokens.tokens_SC.shape[1]:,} of them.",
        "",
        "| | tokens/s | seconds | against the forward alone |",
        "|---|---:|---:|---:|",
    ]
    for name, label in names.items():
        lines.append(f"| {label} | {count / median[name]:,.0f} | {median[name]:.2f} | {median[name] / median['bare']:.2f} |")
    print("\n".join(lines[4:]))
    (HERE / "capture.md").write_text("\n".join(lines) + "\n")
    (HERE / "results/capture.json").write_text(json.dumps({"machine": machine(), "seconds": seconds}, indent=1) + "\n")
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
