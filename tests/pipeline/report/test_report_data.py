from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from pipeline.report.data import (
    CURVES,
    EVALUATION_METRICS,
    HISTOGRAMS,
    LATENTS,
    SAE_CONFIG,
    TRAINING_METRICS,
    read_run,
)
from pipeline.report.histogram import Histogram
from pipeline.sections import PARAMS_FILE
from sae.config import InputError

FILES = [PARAMS_FILE, SAE_CONFIG, TRAINING_METRICS, EVALUATION_METRICS, HISTOGRAMS, LATENTS]


def test_run_is_read_whole(run_root: Path) -> None:
    run = read_run(run_root)
    assert run.architecture == "VanillaSAE"
    assert run.l0_target == 16
    assert run.metric("loss.spliced") == 3.3042
    assert run.metric("not_measured") is None
    assert math.isnan(run.metric("something_new") or 0)
    assert run.never == 12
    assert len(run.latents) == 20
    assert [curve.name for curve in run.curves][:2] == ["gradient", "train/dead_latents"]
    assert all(len(curve.steps) == len(curve.values) == 300 for curve in run.curves)


def test_what_could_not_be_measured_is_left_out(run_root: Path) -> None:
    metrics = json.loads((run_root / EVALUATION_METRICS).read_text()) | {"loss": None}
    (run_root / EVALUATION_METRICS).write_text(json.dumps(metrics))
    evaluation = read_run(run_root).evaluation
    assert not [name for name in evaluation if name.startswith("loss")]
    assert evaluation["fvu"] == 0.2134


def test_sections_that_change_no_result_are_left_out(run_root: Path) -> None:
    assert list(read_run(run_root).params) == ["corpus", "subject", "tokens", "activations", "sae", "train", "report"]


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(run_root: Path, name: str) -> None:
    (run_root / name).unlink()
    with pytest.raises(InputError, match=f"{name}: this file is missing"):
        read_run(run_root)


def test_run_that_logged_elsewhere_has_no_training_numbers(run_root: Path) -> None:
    shutil.rmtree(run_root / "data/train")
    run = read_run(run_root)
    assert run.curves == ()
    assert run.training == {}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b'{"cut": [1, ', b"\xff\xfe", b"3", b""], ids=["cut", "bytes", "scalar", "empty"])
def test_damaged_file_is_named(run_root: Path, name: str, content: bytes) -> None:
    (run_root / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_run(run_root)


def test_wrong_field_is_named_with_its_place(run_root: Path) -> None:
    latents = json.loads((run_root / LATENTS).read_text())
    latents[3]["examples"][1]["tokens"].append("one too many")
    (run_root / LATENTS).write_text(json.dumps(latents))
    with pytest.raises(InputError, match=r"latents\.json\.3\.examples\.1: 26 tokens have 25 activations"):
        read_run(run_root)


def test_peak_outside_the_example_is_an_error(run_root: Path) -> None:
    latents = json.loads((run_root / LATENTS).read_text())
    latents[0]["examples"][0]["peak"] = 99
    (run_root / LATENTS).write_text(json.dumps(latents))
    with pytest.raises(InputError, match="the peak, 99, is none of the 14 tokens"):
        read_run(run_root)


def test_curve_keeps_the_last_value_of_a_step_that_was_logged_twice(run_root: Path) -> None:
    (run_root / CURVES / "train/loss.tsv").write_text("step\tloss\n0\t3\n1\t2\n1\t1.5\n2\tnan\n")
    curve = next(curve for curve in read_run(run_root).curves if curve.name == "train/loss")
    assert curve.steps == (0, 1, 2)
    assert curve.values[:2] == (3, 1.5)
    assert math.isnan(curve.values[2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "loss.tsv: this is no curve"),
        ("time\tvalue\n", "loss.tsv: this is no curve"),
        ("step\tloss\n0\t3\n1", "loss.tsv:3: this row is no step and value"),
        ("step\tloss\n0\tmany\n", "loss.tsv:2: this row is no step and value"),
    ],
)
def test_damaged_curve_is_named_with_its_line(run_root: Path, content: str, message: str) -> None:
    (run_root / CURVES / "train/loss.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_run(run_root)


@pytest.mark.parametrize(
    ("edges", "counts"),
    [([0, 1], [1, 2]), ([0], []), ([0, 2, 1], [1, 1]), ([0, math.inf], [1])],
    ids=["too few edges", "empty", "falling edges", "infinite edge"],
)
def test_histogram_refuses_edges_that_make_no_bins(edges: list[float], counts: list[float]) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram.model_validate({"edges": edges, "counts": counts})


def test_quantile_takes_bins_as_evenly_filled() -> None:
    histogram = Histogram(edges=(0, 10, 20), counts=(10, 30))
    assert histogram.quantile(0.25) == 10
    assert histogram.quantile(0.5) == pytest.approx(10 + 10 / 3)
    assert histogram.quantile(1.0) == 20
    assert math.isnan(Histogram(edges=(0, 1), counts=(0,)).quantile(0.5))


def test_bars_of_whole_numbers_stand_over_their_numbers() -> None:
    assert Histogram(edges=(0, 1, 2), counts=(3, 4)).of_whole_numbers().edges == (-0.5, 0.5, 1.5)
    halves = Histogram(edges=(-0.5, 0.5), counts=(3,))
    assert halves.of_whole_numbers() is halves


def test_long_thin_tail_is_cut_and_counted() -> None:
    counts = [0.0] * 600
    counts[10:20] = [1000.0] * 10
    counts[511] = 3
    body, beyond = Histogram(edges=tuple(range(601)), counts=tuple(counts)).without_tail()
    assert body.edges[-1] == 20
    assert beyond == 3


def test_short_tail_stays() -> None:
    body, beyond = Histogram(edges=(0, 1, 2, 3, 4), counts=(5000, 5000, 1, 0)).without_tail()
    assert body.counts == (5000, 5000, 1)
    assert beyond == 0
