"""docs/params.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from pipeline.params import load_params
from pipeline.reference import reference
from sae.training.resampling import ResampleConfig

ROOT = Path(__file__).parents[2]


def test_the_page_in_docs_is_the_one_that_the_classes_make() -> None:
    assert (ROOT / "docs/params.md").read_text() == reference(), "python -m pipeline params > docs/params.md"


def test_bounds_choices_and_defaults_are_told() -> None:
    rows = {line.split("|")[1].strip(): line for line in reference().splitlines() if line.startswith("| `")}
    assert "whole number > 0 | `2000`" in rows["`steps`"]
    assert "`python-stdlib`, `files`, `huggingface` | `python-stdlib`" in rows["`source`"]
    assert "whole number > 0, or null | `null`" in rows["`d_sae`"]
    assert "number > 0 and < 1, or null | `null`" in rows["`average`"]
    assert "list of number > 0 and ≤ 1 | `[0.0625," in rows["`matryoshka.prefixes`"]
    assert "list of 2, each number ≥ 0 and < 1, or null | `null`" in rows["`optimizer.betas`"]
    assert "mapping of text to mapping of whole number > 0 to number | `{}`" in rows["`early_stopping.min`"]
    assert "`l0_targeting.controller`" in rows


def test_a_section_within_a_section_stands_before_its_keys_with_what_it_is_for() -> None:
    lines = reference().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| **`resample`** | section |"))
    assert ResampleConfig.__doc__ is not None
    assert ResampleConfig.__doc__.splitlines()[0] in lines[at]
    assert lines[at + 1].startswith("| `resample.every` |")


def test_no_table_is_broken_by_what_stands_in_it() -> None:
    for line in reference().splitlines():
        if line.startswith("|"):
            assert line.count("|") == 5, line
            assert "``" not in line, line


def test_the_params_that_ship_are_right() -> None:
    params = load_params(ROOT)
    assert params.sae.architecture == "topk"
