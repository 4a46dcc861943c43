"""How fast activations are captured, against the bare forward pass of the same model, and against SAELens.

    PYTHONPATH=. python benchmarks/capture.py

Run it after `make run` and `make peers`. Three ways to send the same sequences through a model, with the same batches, taking
turns: the forward pass alone, stopped after the hook point's module, its activations thrown away; our capture, which is split
into its two phases (parts: the model at work; shards: shuffling, checksums, manifest); and SAELens' `CacheActivationsRunner`,
which writes a shuffled Arrow dataset. Medians; the model is loaded before the clock starts. Two models: the subject that ships,
whose forward pass is so short that every copy of a row shows, and one of GPT-2's size (12 layers, 768 wide, random weights:
the time does not depend on them), stopped in the middle.
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
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.machine import machine
from sae.activations.capture import ActivationsConfig, Capture
from sae.activations.hook_points import find_hook_points
from sae.activations.model import load_model, read_activations
from sae.config import InputError
from sae.corpus.subject import SubjectConfig
from sae.corpus.tokens import TokenSet

HERE = Path(__file__).parent
WORK = HERE.parent / ".work/capture_benchmark"
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and how much of it is measured.

    Attributes:
        model: its folder.
        hook_point: where it is stopped.
        sequences: how many ours get; `peer_sequences`: how many theirs get, once, since it is slow.
        repetitions: of ours.
    """

    model: str
    hook_point: str
    sequences: int
    peer_sequences: int
    repetitions: int


def cases() -> dict[str, Case]:
    """What is measured, by title; writes the larger model."""
    subject = SubjectConfig().model
    large = WORK / "gpt2_size"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=AutoConfig.from_pretrained(subject).vocab_size,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    LlamaForCausalLM(config).save_pretrained(large)
    AutoTokenizer.from_pretrained(subject).save_pretrained(large)
    return {
        "The subject that ships (2.6 M parameters, 192 wide, stopped after layer 1)": Case(
            subject, "model.layers.1", 1600, 640, 5
        ),
        "GPT-2's size (12 layers, 768 wide, stopped after layer 5)": Case(str(large), "model.layers.5", 320, 64, 3),
    }


def bare(case: Case, model: torch.nn.Module, tokens: TokenSet) -> float:
    """Seconds of the forward passes alone."""
    points = find_hook_points(model, [case.hook_point])
    began = time.perf_counter()
    for start in range(0, len(tokens.tokens_SC), BATCH):
        read_activations(model, points, tokens.tokens_SC[start : start + BATCH])
    return time.perf_counter() - began


def captured(case: Case, model: torch.nn.Module, tokens: TokenSet) -> tuple[float, float]:
    """Seconds of our capture: of its parts, and of its shards."""
    directory = WORK / "ours"
    shutil.rmtree(directory, ignore_errors=True)
    config = ActivationsConfig(hook_points=[case.hook_point], batch_size=BATCH)
    work = Capture(model, tokens, config, directory, split="train", inputs={})
    began = time.perf_counter()
    work.write_parts()
    middle = time.perf_counter()
    work.finish()
    return middle - began, time.perf_counter() - middle


def of_sae_lens(case: Case, tokens: TokenSet) -> float:
    """Seconds of SAELens' runner, in its own environment, for as many tokens as the others get."""
    directory = WORK / "sae_lens"
    shutil.rmtree(directory, ignore_errors=True)
    np.save(WORK / "tokens.npy", tokens.tokens_SC[: case.peer_sequences].numpy())
    command = [
        ".peers/bin/python",
        "benchmarks/capture_peer.py",
        case.model,
        case.hook_point,
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


def measured(case: Case, every: TokenSet) -> dict[str, list[float]]:
    """Seconds by way, of each repetition."""
    columns = {name: getattr(every, name)[: case.sequences] for name in ("tokens_SC", "document_SC", "position_SC")}
    tokens = dataclasses.replace(every, **columns)
    model = load_model(SubjectConfig(model=case.model), None, torch.device("cpu"))
    bare(case, model, tokens)  # warms up
    seconds: dict[str, list[float]] = {"bare": [], "parts": [], "whole": [], "sae_lens": []}
    for _ in range(case.repetitions):
        seconds["bare"].append(bare(case, model, tokens))
        parts, shards = captured(case, model, tokens)
        seconds["parts"].append(parts)
        seconds["whole"].append(parts + shards)
    seconds["sae_lens"].append(of_sae_lens(case, tokens))
    return seconds


def table(case: Case, context: int, seconds: dict[str, list[float]]) -> list[str]:
    """Lines of Markdown."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    count = case.sequences * context
    names = {
        "bare": "forward alone, stopped after the module",
        "parts": "capture, its parts",
        "whole": "capture, the whole store",
        "sae_lens": "SAELens 6.54.12, `CacheActivationsRunner`",
    }
    lines = ["| | tokens/s | seconds | against the forward alone |", "|---|---:|---:|---:|"]
    for name, label in names.items():
        lines.append(f"| {label} | {count / median[name]:,.0f} | {median[name]:.2f} | {median[name] / median['bare']:.2f} |")
    peer = f"{case.peer_sequences * context:,}"
    return [*lines, "", f"{count:,} tokens, {case.repetitions} times; SAELens got {peer} of them, once, scaled up."]


def main() -> None:
    torch.set_num_threads(2)
    path = HERE.parent / "data/tokens/train"
    if not path.exists():
        raise InputError("there are no tokens", where=str(path), expected="make run")
    every = TokenSet.load(path)
    context = every.tokens_SC.shape[1]
    WORK.mkdir(parents=True, exist_ok=True)
    results = {}
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    lines = [
        "# Capture",
        "",
        f"Written by `benchmarks/capture.py`, which says what is measured. {about}; 2 threads; sequences of {context} tokens, "
        f"batches of {BATCH}, stored as float16. `parts` is the model at work with its rows written; the whole store adds "
        "shuffling, checksums and the manifest.",
    ]
    for title, case in cases().items():
        results[title] = measured(case, every)
        lines += ["", f"## {title}", "", *table(case, context, results[title])]
    print("\n".join(lines[4:]))
    (HERE / "capture.md").write_text("\n".join(lines) + "\n")
    (HERE / "results/capture.json").write_text(json.dumps({"machine": machine(), "seconds": results}, indent=1) + "\n")
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
