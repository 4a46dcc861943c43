"""What README.md shows is true of the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.params import Params
from pipeline.sections import read_yaml
from sae.architecture import Architecture, save
from sae.config import parse_config
from sae.core import Cache

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run_as_module(code: str, path: Path) -> dict[str, Any]:
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def test_the_architecture_shown_trains(tmp_path: Path) -> None:
    shown = run_as_module(blocks("python")[0], tmp_path / "shown.py")
    architecture: Architecture[Any] = shown["VanillaSAE"](shown["VanillaConfig"](pre_bias=True), d_in=8, d_sae=16)
    trainable = architecture.trainable
    optimizer = torch.optim.Adam(trainable.parameters(), lr=1e-2)
    x_BD = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(50):
        loss = trainable.loss(x_BD, x_BD, {"sparsity_loss": 1e-3}, Cache())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_the_library_is_used_as_shown(tmp_path: Path) -> None:
    from sae.architectures.vanilla import VanillaSAE

    folder = tmp_path / "saved"
    folder.mkdir()
    save(VanillaSAE(d_in=8, d_sae=16), folder, hook_points=["model.layers.1"], lineage={})
    names: dict[str, Any] = {"x": torch.randn(2, 3, 8)}
    exec(blocks("python")[1].replace("data/sae", str(folder)), names)
    assert names["x_hat"].shape == (2, 3, 8)
    assert names["codes"].dense().shape == (6, 16)


def test_the_parameters_shown_are_keys() -> None:
    shown = YAML(typ="safe").load(blocks("yaml")[0])
    parse_config(Params, read_yaml(ROOT / "params.yaml") | shown)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!#|http)([^)]+)\)", README))
def test_every_file_linked_to_is_there(path: str) -> None:
    assert (ROOT / path).exists()
