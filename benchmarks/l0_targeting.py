"""How near does L0 come to its target, from coefficients a hundred times too small and too large?

    python benchmarks/l0_targeting.py                              everything that is missing, then the table
    python benchmarks/l0_targeting.py --architectures gated --targets 16 --controllers paced --steps 3000

The right coefficient of an architecture and target is the one that `paced` ends with from the config's own start; other runs
start from it, a hundredth and a hundred times of it. L0 is that of the model in inference form on 50,000 rows that no run was
trained on. Every run is one JSON in .work/l0_targeting: what is there is not done again.
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
WIDTHS = {4: 512, 16: 512, 64: 512, 256: 1024}  # d_sae for each target
BATCH, POOL, FRESH, LR = 512, 400, 50_000, 2e-3
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


def run(pool: Pool, architecture: str, target: int, controller: str, steps: int, start: float | None) -> Result:
    """Train once and measure."""
    targeting: dict[str, Any] = {"controller": controller} | ({} if start is None else {"start": start})
    if controller in SAECO:
        targeting |= {"adjustment": 3e-3, "average": 1, "warmup": 0.15}
    config = parse_config(
        TrainConfig,
        {
            "steps": steps,
            "batch_size": BATCH,
            "lr": LR,
            "l0_target": target,
            "l0_targeting": targeting,
            "log_every": steps,
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
        "steps": steps,
        "start": config.l0_targeting.start,
        "end": coefficients[-1],
        "l0": figures["l0"],
        "error": figures["l0"] / target - 1,
        "fvu": figures["fvu"],
        "seconds": round(seconds, 1),
        **calm([math.log(c) for c in coefficients[-round(TAIL * steps) :]]),
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


def kept(pool: Pool, architecture: str, target: int, controller: str, steps: int, factor: float | None) -> Result:
    """A run's result, done now unless it is there. Without a factor it starts from the config's own coefficient."""
    path = WORK / f"{architecture}.{target}.{controller}.{steps}.{factor}.json"
    if not path.exists():
        right = None if factor is None else kept(pool, architecture, target, "paced", steps, None)["end"]
        result = run(pool, architecture, target, controller, steps, None if right is None or factor is None else right * factor)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result | {"factor": factor}))
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def table(results: Sequence[Result]) -> str:
    """Markdown, one row a run."""
    head = "| architecture | target | steps | controller | start | L0 | error | FVU | coefficient, sd | reversals |"
    rows = [head, "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|"]
    for r in results:
        start = "config's" if r["factor"] is None else f"× {r['factor']:g}"
        cells = [r["architecture"], r["target"], r["steps"], r["controller"], start, f"{r['l0']:.2f}", f"{r['error']:+.1%}"]
        rows.append("| " + " | ".join(map(str, [*cells, f"{r['fvu']:.3f}", f"{r['sd']:.3f}", r["reversals"]])) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--targets", nargs="+", type=int, default=tuple(WIDTHS))
    parser.add_argument("--controllers", nargs="+", default=("paced", *SAECO))
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS)
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pool = Pool(SyntheticSource(WORLD))
    axes = (arguments.controllers, arguments.architectures, arguments.targets, arguments.factors)
    for controller, architecture, target, factor in itertools.product(*axes):
        print(table([kept(pool, architecture, target, controller, arguments.steps, factor)]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
