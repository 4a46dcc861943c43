"""A finished run, made up: the files that the stages before the report write, with the text of a real module in them."""

from __future__ import annotations

import inspect
import json
import json.decoder
import math
import random
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NASTY_TOKENS = ["</script>", "<!--", '"', "'", "&amp;", "🦊", "\ud83d", "\x00", "\u202e", "\r\n", "\t", "<b>", " é", "�"]
PARAMS = """\
corpus:
  source: python-stdlib
  held_out: 0.1
subject:
  model: data/subject
  revision: null
tokens: {context: 128, train: 1000000, packing: pack}
activations:
  hook_points: [model.layers.2]
  dtype: float16
sae:
  architecture: vanilla
  expansion: 8
  vanilla: {tied_init: true, bias: {decoder: mean, encoder: zero}}
train:
  steps: 3000
  lr: 3.0e-4
  l0_target: 16
  betas: [0.9, 0.999]
report:
  title: A run
run: {device: cuda}
sweep: {grid: {train.lr: [0.001, 0.002]}}
"""
WriteRun = Callable[[Path], Path]


def sae_config() -> dict[str, Any]:
    return {
        "schema": 1,
        "architecture": "sae.architectures.vanilla:VanillaSAE",
        "config": {"expansion": 8, "tied_init": True, "loss": {"sparsity": "l1", "power": 1.0}},
        "d_in": 192,
        "d_sae": 1536,
        "hook_points": ["model.layers.2"],
        "lineage": {name: (name.encode().hex() * 9)[:64] for name in ("subject", "tokens", "activations", "code")},
    }


def evaluation() -> dict[str, Any]:
    return {
        "tokens": 100000,
        "l0": 15.23,
        "fvu": 0.2134,
        "cosine": 0.8912,
        "dead_latents": 12,
        "dead_share": 0.0078125,
        "loss": {
            "original": 3.2011,
            "spliced": 3.3042,
            "zero_ablation": 8.1377,
            "mean_ablation": 6.0283,
            "recovered_zero": 0.97911,
            "recovered_mean": 0.96353,
        },
        "pca": {"components": 15, "fvu": 0.4501},
        "something_new": math.nan,
    }


def training() -> dict[str, Any]:
    return {"train": {"loss": 0.3127, "l0": 15.91, "fvu": 0.2201}, "step": 2999, "gradient": "nan"}


def histograms(draw: random.Random) -> dict[str, Any]:
    edges = [round(-6 + 0.1 * index, 6) for index in range(61)]
    frequency = [0] * 60
    for _ in range(1524):
        exponent = min(max(draw.gauss(-2.5, 0.75), -5.99), -0.01)
        frequency[int((exponent + 6) / 0.1)] += 1
    tokens = [0] * 49
    for _ in range(100_000):
        tokens[min(max(round(draw.gauss(15.2, 5.2)), 0), 48)] += 1
    return {
        "frequency": {"log10_edges": edges, "counts": frequency, "never": 12},
        "l0": {"edges": list(range(50)), "counts": tokens},
    }


def latents(draw: random.Random, number: int = 20, examples: int = 8, length: int = 25) -> list[dict[str, Any]]:
    source = textwrap.dedent(inspect.getsource(json.decoder))
    words = re.findall(r"\n[ ]*| ?\w{1,6}|[^\w\n]", source)
    found: list[dict[str, Any]] = []
    for index in range(number):
        strongest = round(draw.uniform(3, 12), 4)
        shown: list[dict[str, Any]] = []
        for rank in range(examples):
            start = draw.randrange(len(words) - length)
            tokens = words[start : start + length]
            peak = draw.randrange(length // 3, length)
            acts = [round(draw.uniform(0, 0.8) * strongest, 4) if draw.random() < 0.25 else 0.0 for _ in tokens]
            acts[peak] = round(strongest * (1 - 0.05 * rank), 4)
            shown.append(
                {"document": "json/decoder.py", "position": start, "tokens": tokens, "activations": acts, "peak": peak},
            )
        frequency = round(10 ** draw.uniform(-4, -1), 6)
        latent = 17 + 71 * index
        found.append({"latent": latent, "frequency": frequency, "max_activation": strongest, "examples": shown})
    nasty = found[0]["examples"][0]
    nasty["tokens"] = NASTY_TOKENS
    nasty["activations"] = [float(index) / 2 for index in range(len(NASTY_TOKENS))]
    nasty["activations"][3] = math.nan
    found[0]["max_activation"] = max(found[0]["max_activation"], nasty["activations"][-1])
    nasty["peak"] = len(NASTY_TOKENS) - 1
    return found


def curves(draw: random.Random) -> dict[str, Callable[[int], float]]:
    def noise(size: float) -> float:
        return 1 + size * draw.gauss(0, 1)

    return {
        "train/loss": lambda step: (0.3 + 4 * math.exp(-step / 150)) * noise(0.03),
        "train/l0": lambda step: 16 + (620 * math.exp(-step / 160) + 1.2) * noise(0.2),
        "train/fvu": lambda step: (0.21 + 0.79 * math.exp(-step / 200)) * noise(0.02),
        "train/held_out_fvu": lambda step: 0.24 + 0.79 * math.exp(-step / 200),
        "train/sparsity_coefficient": lambda step: 0.001 * min(1, 0.01 + step / 1000) * noise(0.01),
        "train/lr": lambda step: 3e-4 * min(1, step / 200) * (1 if step < 2400 else (3000 - step) / 600),
        "train/dead_latents": lambda step: float(round(12 + 300 * math.exp(-((step - 700) ** 2) / 90_000))),
        "train/decoder_norm": lambda step: 1.0,
        "gradient": lambda step: math.nan if step == 600 else 2 * math.exp(-step / 900) * noise(0.1),
    }


def write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def write_run() -> WriteRun:
    """A function that writes the whole run below a folder, the same bytes each time."""

    def write(root: Path) -> Path:
        draw = random.Random(0)
        root.mkdir(parents=True, exist_ok=True)
        (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
        write_json(root / "data/sae/config.json", sae_config())
        write_json(root / "data/train/metrics.json", training())
        write_json(root / "data/evaluation/metrics.json", evaluation())
        write_json(root / "data/evaluation/histograms.json", histograms(draw))
        write_json(root / "data/evaluation/latents.json", latents(draw))
        for name, curve in curves(draw).items():
            path = root / "data/train/plots/metrics" / f"{name}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [f"step\t{path.stem}", *(f"{step}\t{curve(step)!r}" for step in range(0, 3000, 10))]
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return root

    return write


@pytest.fixture
def run_root(tmp_path: Path, write_run: WriteRun) -> Path:
    """A folder with the run in it."""
    return write_run(tmp_path / "workspace")
