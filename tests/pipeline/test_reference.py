"""docs/params.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from pipeline.params import load_params
from pipeline.reference import reference

ROOT = Path(__file__).parents[2]


def test_the_page_in_docs_is_the_one_that_the_classes_make() -> None:
    assert (ROOT / "docs/params.md").read_text() == reference(), "python -m pipeline params > docs/params.md"


def test_bounds_choices_and_defaults_are_told() -> None:
    rows = {line.split("|")[1].strip(): line for line in reference().splitlines() if line.startswith("| `")}
    assert "whole number > 0 | `2000`" in rows["`steps`"]
    assert "`python-stdlib`, `files`, `huggingface` | `python-stdlib`" in rows["`source`"]
    assert "whole number or null > 0 | `null`" in rows["`d_sae`"]
    assert "`l0_targeting.controller`" in rows


def test_the_params_that_ship_are_right() -> None:
    params = load_params(ROOT)
    assert params.sae.architecture == "topk"
