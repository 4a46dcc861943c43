"""What a sweep costs beside its stages: twelve points on the default model, two at a time, and the same sweep again.

    PYTHONPATH=. python benchmarks/sweeps.py

Run it after `make run`, on a machine that does nothing else. It works in a clone with a cache of its own, so that activations
are made once and nothing is known from before. All the rest is (wall time × jobs - the stages' own time) / points: planning, the
snapshot, clones, DVC, records, the table, and the time in which one job waits for the activations that the other makes, which is
there once however many points there are, and not at all where the activations are there already. A stage's own time is from
DVC's word that it runs to its word on the next one, so DVC's hashing of its outputs counts as the stage's. Training is short
here (200 steps), which changes nothing in the rest. Then the plan of 200 and of 1,000 points.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.machine import machine
from pipeline.sweeps.plan import make_plan
from pipeline.sweeps.table import make_table
from sae.sweeps import SweepConfig

HERE = Path(__file__).parent
CLONE = HERE.parent / ".work/sweep_benchmark"
JOBS = 2
ARCHITECTURES = ["topk", "batchtopk", "vanilla", "gated"]


def run(folder: Path) -> tuple[float, str]:
    """Seconds of the sweep, and what it printed."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", "sweep", "--jobs", str(JOBS)]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return time.perf_counter() - began, done.stdout


def prepare() -> None:
    """A clone with a short training and a sweep of twelve points."""
    shutil.rmtree(CLONE, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(HERE.parent), str(CLONE)], check=True)
    path = CLONE / "params.yaml"
    params = YAML().load(path.read_text())
    params["train"]["steps"] = 200
    params["run"]["threads"] = 1
    params["sweep"] = {"grid": {"train.l0_target": [10, 19, 38], "sae.architecture": ["topk", "batchtopk"]}, "seeds": 2}
    with path.open("w") as file:
        YAML().dump(params, file)


def scale(count: int) -> tuple[float, float]:
    """Seconds to plan so many points, and to make their table."""
    rates = [1e-4 * (1 + index) for index in range(count // len(ARCHITECTURES))]
    config = SweepConfig.model_validate({"grid": {"train.lr": rates, "sae.architecture": ARCHITECTURES}})
    began = time.perf_counter()
    plan = make_plan(HERE.parent, config)
    middle = time.perf_counter()
    make_table(plan.points, {}).text()
    return middle - began, time.perf_counter() - middle


def main() -> None:
    os.chdir(HERE.parent)
    prepare()
    wall, _ = run(CLONE)
    again, said = run(CLONE)
    assert re.search(r"12 points, 12 done already, 0 to do", said), said
    records = [json.loads(path.read_text()) for path in (CLONE / ".work/points").glob("*.json")]
    own = sum(seconds for record in records for _, outcome, seconds in record["stages"] if outcome == "ran")
    # What points share was made before them, once, by the same commands; its time is in no record.
    (shared,) = (json.loads(path.read_text()) for path in (CLONE / ".work/shared").glob("*.json"))
    making = sum(seconds for _, outcome, seconds in shared["stages"] if outcome == "ran")
    own += making
    waited = making * (JOBS - 1)
    points = len(records)
    results = {
        "wall": wall,
        "again": again,
        "stages": own,
        "orchestration_per_point": (wall * JOBS - own) / points,
        "waited": waited,
        "plan_200": scale(200),
        "plan_1000": scale(1000),
    }
    lines = [
        "# Sweeps",
        "",
        "Written by `benchmarks/sweeps.py`, which says what is measured. "
        + ", ".join(f"{name} {value}" for name, value in machine().items())
        + ".",
        "",
        "| | seconds |",
        "|---|---:|",
        f"| {points} points of 200 steps on the default model, {JOBS} at a time, activations included | {wall:.1f} |",
        f"| the stages' own time | {own:.1f} |",
        f"| all the rest, for a point | {results['orchestration_per_point']:.2f} |",
        f"| of it: the other job waits until the activations are there ({waited:.1f} in all) | {waited / points:.2f} |",
        f"| of it: orchestration | {(wall * JOBS - own - waited) / points:.2f} |",
        f"| the same sweep again | {again:.1f} |",
        f"| plan of 200 points, and its table | {results['plan_200'][0]:.2f} + {results['plan_200'][1]:.2f} |",
        f"| plan of 1,000 points, and its table | {results['plan_1000'][0]:.2f} + {results['plan_1000'][1]:.2f} |",
    ]
    print("\n".join(lines[4:]))
    (HERE / "sweeps.md").write_text("\n".join(lines) + "\n")
    (HERE / "results/sweeps.json").write_text(json.dumps({"machine": machine(), "seconds": results}, indent=1) + "\n")
    shutil.rmtree(CLONE, ignore_errors=True)


if __name__ == "__main__":
    main()
