"""How near does L0 come to its target, from coefficients a hundred times too small and too large?

    python benchmarks/l0_targeting.py                              everything that is missing, then the table
    python benchmarks/l0_targeting.py --architectures gated --targets 16 --controllers paced
    python benchmarks/l0_targeting.py --tables                     only the table, from what is there

The right coefficient of an architecture and target is the one that `paced` ends with from the config's own start; other runs
start from it, a hundredth and a hundred times of it. L0 is that of the model in inference form, not trimmed, on 50,000 rows
that no run was trained on. Every run is one JSON in .work/l0_targeting: what is there is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor

from sae.activations.synthetic import SyntheticConfig, SyntheticSource
from sae.architecture import import_architecture
from sae.architectures import SHIPPED
from sae.config import parse_config
from sae.training.config import TrainConfig
from sae.training.trainer import Trainer

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / ".work/l0_targeting"
WORLD = SyntheticConfig(features=256, widths=[64])
WIDTHS = {4: 256, 16: 256, 64: 256, 256: 1024}  # d_sae for each target
STEPS, BATCH, LR = 2000, 512, 2e-3
POOL, FRESH = 400, 50_000  # batches that are kept; rows to measure on
ARCHITECTURES = ("vanilla", "gated", "anthropic", "jumprelu", "prolu", "p_anneal")
FACTORS = (0.01, 1.0, 100.0)
SAECO = ("basic", "gentle_basic", "pid")
TAIL = 0.15  # of the run, which the coefficient's calm is judged on

Result = dict[str, Any]


class Pool:
    """The synthetic source with its first batches kept, over and over: rows cost more than a step of so small an SAE."""

    def __init__(self, source: SyntheticSource) -> None:
        self.source = source
        self.hook_points, self.widths = source.hook_points, source.widths
        self.target_hook_points, self.target_widths = source.target_hook_points, source.target_widths
        self._kept: list[Tensor] = []

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._kept:
            self._kept = [x_BD for x_BD, _ in itertools.islice(self.source.batches(BATCH, seed=0), POOL)]
        for number in itertools.count(start):
            x_BD = self._kept[number % POOL]
            yield x_BD, x_BD


def run(pool: Pool, architecture: str, target: int, controller: str, start: float | None) -> Result:
    """Train once and measure."""
    targeting: dict[str, Any] = {"controller": controller, "trim": False} | ({} if start is None else {"start": start})
    if controller in SAECO:
        targeting |= {"adjustment": 3e-3, "average": 1, "warmup": 0.15}
    config = parse_config(
        TrainConfig,
        {
            "batch_size": BATCH,
            "lr": LR,
            "l0_target": target,
            "l0_targeting": targeting,
            "log_every": STEPS,
            "held_out_rows": 0,
        },
    )
    cls = import_architecture(SHIPPED[architecture], "architecture")
    sae = cls(d_in=WORLD.widths[0], d_sae=WIDTHS[target], l0_target=target)
    coefficients: list[float] = []
    trainer = Trainer(sae, pool, config, progress=lambda _: coefficients.append(trainer.state.controller.coefficient))
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    figures = trainer.measure(pool.source, FRESH, seed=1)
    return {
        "architecture": architecture,
        "target": target,
        "controller": controller,
        "start": config.l0_targeting.start,
        "end": coefficients[-1],
        "l0": figures["l0"],
        "error": figures["l0"] / target - 1,
        "fvu": figures["fvu"],
        "seconds": round(seconds, 1),
        **calm([math.log(c) for c in coefficients[-round(TAIL * STEPS) :]]),
    }


def calm(log_coefficients: Sequence[float]) -> dict[str, float]:
    """Standard deviation of the log coefficient about its straight line, and its reversals by more than 5 %."""
    steps = range(len(log_coefficients))
    slope, level = statistics.linear_regression(steps, log_coefficients)
    deviation = statistics.pstdev([y - slope * t - level for t, y in zip(steps, log_coefficients, strict=True)])
    reversals, extreme, direction = 0, log_coefficients[0], 0
    for y in log_coefficients:
        if direction == 0:
            direction = (y > extreme + 0.05) - (y < extreme - 0.05)
            extreme = y if direction else extreme
        elif (y - extreme) * direction > 0:
            extreme = y
        elif abs(y - extreme) > 0.05:
            reversals, direction, extreme = reversals + 1, -direction, y
    return {"sd": deviation, "reversals": reversals}


def kept(pool: Pool, architecture: str, target: int, controller: str, factor: float | None) -> Result:
    """A run's result, done now unless it is there. Without a factor it starts from the config's own coefficient."""
    path = WORK / f"{architecture}.{target}.{controller}.{factor}.json"
    if not path.exists():
        right = None if factor is None else kept(pool, architecture, target, "paced", None)["end"]
        result = run(pool, architecture, target, controller, None if right is None or factor is None else right * factor)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result | {"factor": factor}))
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def row(result: Result) -> str:
    """One line of the table."""
    start = "config's" if result["factor"] is None else f"× {result['factor']:g}"
    cells = [
        result["architecture"],
        result["target"],
        result["controller"],
        start,
        f"{result['l0']:.2f}",
        f"{result['error']:+.1%}",
    ]
    cells += [f"{result['fvu']:.3f}", f"{result['end']:.2g}", f"{result['sd']:.3f}", result["reversals"]]
    return "| " + " | ".join(map(str, cells)) + " |"


def write_tables() -> None:
    """`l0_targeting.md` and `results/l0_targeting.json`, from all runs that are there."""
    results: list[Result] = [json.loads(path.read_text()) for path in sorted(WORK.glob("*.json"))]
    order = ("paced", *SAECO)
    results.sort(
        key=lambda r: (order.index(r["controller"]), ARCHITECTURES.index(r["architecture"]), r["target"], r["factor"] or 0)
    )
    lines = [
        "# L0 targeting",
        "",
        "Written by `benchmarks/l0_targeting.py`, which says what is measured. "
        + ", ".join(f"{name} {value}" for name, value in machine().items())
        + "; one thread.",
        "",
        f"{STEPS} steps of {BATCH} rows, learning rate {LR:g}; {WORLD.features} true features in {WORLD.widths[0]} dimensions "
        f"with a true L0 of {WORLD.l0:g}; d_sae " + ", ".join(f"{d_sae} for target {l0}" for l0, d_sae in WIDTHS.items()) + ".",
        "",
        "| controller | runs | within 2 % | within 5 % | largest error | median sd of ln c | median reversals |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for controller in order:
        if not (own := [r for r in results if r["controller"] == controller]):
            continue
        errors = [abs(r["error"]) for r in own]
        within = [f"{sum(error <= limit for error in errors)}" for limit in (0.02, 0.05)]
        middle = (statistics.median(r["sd"] for r in own), statistics.median(r["reversals"] for r in own))
        cells = [controller, len(own), *within, f"{max(errors):.1%}", f"{middle[0]:.3f}", f"{middle[1]:g}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        f"sd: of the log coefficient about its straight line in the last {TAIL:.0%} of the run; reversals: by over 5 %, there.",
        "",
        "| architecture | target | controller | start | L0 | error | FVU | coefficient | sd | reversals |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
        *map(row, results),
    ]
    (HERE / "l0_targeting.md").write_text("\n".join(lines) + "\n")
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/l0_targeting.json").write_text(json.dumps({"machine": machine(), "runs": results}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--targets", nargs="+", type=int, default=tuple(WIDTHS), choices=WIDTHS)
    parser.add_argument("--controllers", nargs="+", default=("paced", *SAECO), choices=("paced", *SAECO))
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS)
    parser.add_argument("--tables", action="store_true", help="only write the tables, from the runs that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.tables:
        pool = Pool(SyntheticSource(WORLD))
        axes = (arguments.controllers, arguments.targets, arguments.architectures, arguments.factors)
        for controller, target, architecture, factor in itertools.product(*axes):
            print(row(kept(pool, architecture, target, controller, factor)), flush=True)
    write_tables()


if __name__ == "__main__":
    main()
