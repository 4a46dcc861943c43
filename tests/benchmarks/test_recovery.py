import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae.activations.synthetic import SyntheticConfig
from sae.config import derive_seed

ROOT = Path(__file__).resolve().parents[2]
WORLD = SyntheticConfig(features=24, widths=[8], l0=3.0, min_probability=0.02)


def frozen(folder: Path) -> Any:
    from recovery_data import Frozen

    return Frozen(folder, rows=600, held_out=200, world=WORLD)


def test_the_rows_are_made_once_and_known_again(tmp_path: Path) -> None:
    first = frozen(tmp_path)
    made = first.rows.stat().st_mtime_ns
    assert frozen(tmp_path).sha256 == first.sha256
    assert first.rows.stat().st_mtime_ns == made
    assert load_file(first.rows)["x"].shape == (600, 8)
    (tmp_path / "about.json").unlink()
    assert frozen(tmp_path).sha256 == first.sha256


def test_the_truth_is_measured_as_perfect_and_what_diverged_is_said(tmp_path: Path) -> None:
    data = frozen(tmp_path)
    truth = load_file(data.held_out)
    out = {"codes": truth["magnitude"], "reconstruction": truth["x"], "decoder": data.source.dictionary_GD}
    save_file(out, tmp_path / "out.safetensors")
    figures = data.measure(tmp_path / "out.safetensors")
    assert figures["mcc"] == pytest.approx(1)
    assert figures["f1"] == 1
    save_file(out | {"codes": truth["magnitude"] * torch.nan}, tmp_path / "out.safetensors")
    assert data.measure(tmp_path / "out.safetensors") == {"diverged": True}


@pytest.mark.parametrize(
    ("l0", "start", "slope"),
    [
        (lambda c: 30 * c**-0.9, 6.0, -0.6),
        (lambda c: 30 * c**-0.9, 60.0, -0.6),
        (lambda c: 5 + 3 * math.log(max(c, 1)), 7.0, 1.0),
        (lambda c: 400 / (1 + c**2), 1.0, -0.6),
        (lambda c: 0.0 if c > 3 else 12 - 2 * c, 5.0, -0.6),
    ],
)
def test_the_search_meets_the_true_l0(tmp_path: Path, l0: Callable[[float], float], start: float, slope: float) -> None:
    from recovery import TOLERANCE, Benchmark, Entry

    class Known(Benchmark):
        """Runs whose L0 is a known function of the coefficient."""

        def result(self, entry: Entry, lr: float, seed: int, coefficient: float) -> dict[str, Any]:
            return {"l0": l0(coefficient), "coefficient": coefficient}

    known = Known(frozen(tmp_path), None, tmp_path / "results")  # type: ignore[arg-type]
    known.true_l0 = 7.0
    found = known.at_true_l0(Entry("sae_lens", "standard", start, slope), 1e-3, 0, start)
    assert abs(found["l0"] / 7 - 1) <= TOLERANCE


def test_a_result_is_worked_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import recovery

    data, asked = frozen(tmp_path), []

    class Truth:
        """Answers each job with the truth."""

        def work(self, job: dict[str, Any]) -> dict[str, Any]:
            asked.append(job)
            truth = load_file(job["held_out"])
            decoder_FD = data.source.dictionary_GD
            save_file({"codes": truth["magnitude"], "reconstruction": truth["x"], "decoder": decoder_FD}, job["out"])
            return {"seconds": 1.0}

    monkeypatch.setattr(recovery, "WORK", tmp_path)
    benchmark = recovery.Benchmark(data, Truth(), tmp_path / "results", steps=10)  # type: ignore[arg-type]
    entry = recovery.Entry("sparsify", "topk", 7)
    first = benchmark.result(entry, 1e-3, 0, 7)
    assert benchmark.result(entry, 1e-3, 0, 7) == first
    assert len(asked) == 1
    benchmark.result(entry, 1e-3, 1, 7)
    assert len(asked) == 2


def test_the_better_learning_rate_is_sought_among_those_that_meet_l0() -> None:
    from recovery import better

    meets, better_but_off = {"l0": 7.1, "mcc": 0.8, "f1": 0.6}, {"l0": 12.0, "mcc": 0.9, "f1": 0.7}
    assert better([meets, better_but_off], 7.0) is meets
    assert better([better_but_off, {"diverged": True}], 7.0) is better_but_off


def check(tmp_path: Path, python: Path, script: str, entries: list[Any]) -> None:
    """A few steps of these architectures: trained, saved, loaded and measured."""
    from recovery import Benchmark

    data = frozen(tmp_path)
    benchmark = Benchmark(data, None, tmp_path / "results", steps=40)  # type: ignore[arg-type]
    epoch_seeds = [derive_seed(0, "rows", f"epoch {epoch}") for epoch in range(12)]
    files = {"rows": str(data.rows), "held_out": str(data.held_out)}
    jobs = [
        benchmark.job(entry, 1e-3, 0, 3.0)
        | {"batch_size": 64, "epoch_seeds": epoch_seeds, "out": str(tmp_path / f"{entry.architecture}.safetensors")}
        | files
        for entry in entries
    ]
    done = subprocess.run(
        [str(python), str(ROOT / "benchmarks" / script)],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        env=os.environ | {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(ROOT)} if script == "recovery_ours.py" else {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(jobs)
    for job in jobs:
        made = load_file(job["out"])
        assert made["codes"].shape == (200, job["d_sae"])
        assert made["decoder"].shape == (job["d_sae"], 8)
        assert 0 <= data.measure(Path(job["out"]))["mcc"] <= 1


@pytest.mark.full
@pytest.mark.parametrize("tool", ["sae_lens", "dictionary_learning", "sparsify"])
def test_each_peer_trains_saves_and_loads(tmp_path: Path, tool: str) -> None:
    from recovery import PEERS

    python = ROOT / ".peers/bin/python"
    assert python.exists(), "the peers are not installed: make peers"
    check(tmp_path, python, "recovery_peers.py", [entry for entry in PEERS if entry.tool == tool])


def test_every_architecture_that_reconstructs_its_input_is_compared() -> None:
    from recovery_ours import ENTRIES

    from sae.architectures import SHIPPED

    compared = {settings["architecture"] for settings in ENTRIES.values()}
    assert compared == {name for name in SHIPPED if "coder" not in name}


@pytest.mark.full
def test_each_of_ours_trains_saves_and_loads(tmp_path: Path) -> None:
    from recovery import OURS

    check(tmp_path, Path(sys.executable), "recovery_ours.py", OURS)
