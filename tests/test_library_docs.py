"""What docs/library.md shows is true of the code: its blocks run, one after the other, and its tables name what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import sae
from sae.architectures.topk import TopKSAE
from tests.sae.synthetic import SyntheticSource

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "library.md").read_text()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page takes for given: the subject, a saved SAE of it, and a file with activations."""
    here = tmp_path_factory.mktemp("library")
    (here / "data" / "sae").mkdir(parents=True)
    (here / "data" / "subject").symlink_to(ROOT / "data" / "subject")
    sae.save(TopKSAE(d_in=192, d_sae=384, l0_target=8), here / "data" / "sae", hook_points=["model.layers.1"], lineage={})
    save_file({"x": SyntheticSource(d_in=32).sample(4096, "page")}, here / "activations.safetensors")
    return here


@pytest.fixture(scope="module")
def names(workspace: Path) -> dict[str, Any]:
    """The names that are known when all blocks have run; training is cut short."""
    known: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        for block in re.finditer(r"```python\n(.*?)```", PAGE, re.DOTALL):
            code = block[1].replace("steps=2000", "steps=150")
            lines = "\n" * PAGE.count("\n", 0, block.start(1))  # so that an error names the page's own line
            exec(compile(lines + code, "docs/library.md", "exec"), known)
    return known


def test_blocks_do_what_they_say(names: dict[str, Any]) -> None:
    tokens = names["tokens"]
    assert names["x_hat"].shape == (2, 10, 192)
    assert names["codes"].shape == (20, 384)
    assert names["logits"].shape == (*tokens.shape, 4096)
    assert names["effect_BF"].shape == (tokens.numel(), 384)
    assert names["effect_BF"].abs().max() > 0
    assert names["text"].startswith("def main():\n    return")


def test_sae_trained_on_tensors_has_learnt_and_is_loaded(names: dict[str, Any]) -> None:
    mine, x_ND = names["mine"], SyntheticSource(d_in=32).sample(512, "fresh")
    error = (mine(x_ND) - x_ND).square().sum() / (x_ND - x_ND.mean(0)).square().sum()
    assert error < 0.5
    assert mine.encode(x_ND).l0() <= 16
    assert mine.hook_points == ["model.layers.1"]


def test_tables_name_the_keys_and_tensors_that_are_saved(workspace: Path) -> None:
    table = PAGE[PAGE.index("## What is in the directory") :]
    keys = [key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)]
    assert sorted(keys) == sorted(json.loads((workspace / "data/sae/config.json").read_text()))
    assert all(f"`{name}`" in table for name in load_file(workspace / "data/sae/model.safetensors"))


def test_loading_and_splicing_need_neither_transformers_nor_the_pipeline() -> None:
    code = "import sae, sys; sae.load, sae.splice; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert "sae.evaluation.intervene" in loaded
    assert not {"transformers", "datasets", "pyarrow", "prefect", "dvc"} & set(loaded)


def test_edits_and_arguments_listed_are_those_there_are() -> None:
    listed = re.findall(r"^\| `(\w+)\((\w+)", PAGE, re.MULTILINE)
    assert [name for name, _ in listed] == ["ablate", "scale", "set", "add"]
    assert all(callable(getattr(sae.Splice, name)) for name, _ in listed)
    arguments = re.findall(r"^\| `(\w+)=", PAGE, re.MULTILINE)
    assert arguments == ["positions", "error_term", "gradients"]


@pytest.mark.parametrize("path", re.findall(r"\]\((?!#|http)([^)]+)\)", PAGE))
def test_every_file_linked_to_is_there(path: str) -> None:
    assert (ROOT / "docs" / path).exists()
