"""How near does L0 come to its target, from coefficients a hundred times too small and too large?

    python benchmarks/l0_targeting.py                              everything that is missing, then the table
    python benchmarks/l0_targeting.py --architectures gated --targets 16 --controllers paced
    python benchmarks/l0_targeting.py --store                      the same on data/activations, which `make run` makes
    python benchmarks/l0_targeting.py --tables                     only the table, from what is there

The right coefficient of an architecture and target is the one that `paced` ends with from the config's own start; other runs
start from it, a hundredth and a hundred times of it. L0 is that of the model in inference form, as steering left it and as
trimming did, on rows that no run was trained on: 50,000 of the synthetic source, or, with `--store`, what the run left over
of the default run's training split, and all of the held-out split, with the interval of its mean over documents. Every run is
one JSON in .work/l0_targeting: what is there is not done again.
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

from sae.activations.loader import StoreSource
from sae.activations.synthetic import SyntheticConfig, SyntheticSource
from sae.architecture import import_architecture
from sae.architectures import SHIPPED
from sae.config import parse_config
from sae.training.config import TrainConfig
from sae.training.source import ActivationSource
from sae.training.trainer import Trainer

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / ".work/l0_targeting"
WORLD = SyntheticConfig(features=256, widths=[64])
WIDTHS = {4: 256, 16: 256, 64: 256, 256: 1024}  # d_sae for each target
STORE_WIDTHS = {4: 768, 16: 768, 64: 768, 256: 1536}
DATA = HERE.parent / "data/activations"
BATCH, LR = 512, 2e-3
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


class World:
    """Where rows come from, and what an SAE is trained and measured on."""

    name = "synthetic"
    steps = 2000
    d_in = WORLD.widths[0]
    d_sae = WIDTHS

    def __init__(self) -> None:
        synthetic = SyntheticSource(WORLD)
        self.source: ActivationSource = Pool(synthetic)
        self.fresh: ActivationSource = synthetic
        self.fresh_rows, self.fresh_seed = FRESH, 1

    def measure(self, trainer: Trainer) -> dict[str, float]:
        """Of the model as it would be saved now, on fresh rows."""
        return trainer.measure(self.fresh, self.fresh_rows, seed=self.fresh_seed)

    def held_out(self, trainer: Trainer) -> dict[str, float]:
        """What there is to say of held-out rows; nothing where the fresh rows are as good."""
        return {}


class StoreWorld(World):
    """The default run's activations. Fresh rows are those of the epoch that the run did not come to."""

    name = "store"
    steps = 1800
    d_sae = STORE_WIDTHS

    def __init__(self) -> None:
        self.source = store = StoreSource(DATA / "train")
        self.d_in = sum(store.widths)
        self.fresh = _From(store, self.steps)
        # Whole batches are measured: one less, lest the last takes rows of the next epoch.
        self.fresh_rows, self.fresh_seed = store.rows - (self.steps + 1) * BATCH, 0
        self._held_out = StoreSource(DATA / "held_out")

    def held_out(self, trainer: Trainer) -> dict[str, float]:
        """Mean L0 of held-out tokens, and half the width of its 95 % interval, with documents as the units."""
        store, hook_point = self._held_out.store, self._held_out.hook_points[0]
        document_parts, l0_parts = [], []
        for index in range(len(store.manifest.shards)):
            shard = store.read_shard(index, [hook_point, "document"])
            kept_N = shard["document"] >= 0
            x_ND = trainer.normalizer.normalize(shard[hook_point][kept_N].float())
            with torch.no_grad():
                l0_parts += [trainer.model.encode(x_BD).l0_per_token().double() for x_BD in x_ND.split(4096)]
            document_parts.append(shard["document"][kept_N].long())
        l0_N = torch.cat(l0_parts)
        _, document_N = torch.cat(document_parts).unique(return_inverse=True)
        mean = l0_N.mean()
        off_G = torch.zeros(int(document_N.max()) + 1, dtype=torch.float64).index_add_(0, document_N, l0_N - mean)
        return {"held_out_l0": float(mean), "interval": 1.96 * float(off_G.square().sum().sqrt()) / len(l0_N)}


class _From:
    """A source from a later batch on."""

    def __init__(self, source: ActivationSource, start: int) -> None:
        self.source, self.start = source, start
        self.hook_points, self.widths = source.hook_points, source.widths
        self.target_hook_points, self.target_widths = source.target_hook_points, source.target_widths

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return self.source.batches(batch_size, seed=seed, start=self.start + start)


def run(world: World, architecture: str, target: int, controller: str, start: float | None) -> Result:
    """Train once and measure."""
    targeting: dict[str, Any] = {"controller": controller, "trim": False} | ({} if start is None else {"start": start})
    if controller in SAECO:
        targeting |= {"adjustment": 3e-3, "average": 1, "warmup": 0.15}
    config = parse_config(
        TrainConfig,
        {
            "steps": world.steps,
            "batch_size": BATCH,
            "lr": LR,
            "l0_target": target,
            "l0_targeting": targeting,
            "log_every": world.steps,
            "held_out_rows": 0,
        },
    )
    cls = import_architecture(SHIPPED[architecture], "architecture")
    sae = cls(d_in=world.d_in, d_sae=world.d_sae[target], l0_target=target)
    coefficients: list[float] = []
    trainer = Trainer(sae, world.source, config, progress=lambda _: coefficients.append(trainer.state.controller.coefficient))
    began = time.perf_counter()
    trainer.train()
    steered = world.measure(trainer)["l0"]
    trainer.trim()
    seconds = time.perf_counter() - began
    figures = world.measure(trainer)
    return {
        "world": world.name,
        "architecture": architecture,
        "target": target,
        "controller": controller,
        "start": config.l0_targeting.start,
        "end": coefficients[-1],
        "steered": steered / target - 1,
        "l0": figures["l0"],
        "error": figures["l0"] / target - 1,
        "fvu": figures["fvu"],
        "seconds": round(seconds, 1),
        **world.held_out(trainer),
        **calm([math.log(c) for c in coefficients[-round(TAIL * world.steps) :]]),
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


def kept(world: World, architecture: str, target: int, controller: str, factor: float | None) -> Result:
    """A run's result, done now unless it is there. Without a factor it starts from the config's own coefficient."""
    path = WORK / f"{world.name}.{architecture}.{target}.{controller}.{factor}.json"
    if not path.exists():
        right = None if factor is None else kept(world, architecture, target, "paced", None)["end"]
        result = run(world, architecture, target, controller, None if right is None or factor is None else right * factor)
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
        f"{result['steered']:+.1%}",
        f"{result['l0']:.2f}",
        f"{result['error']:+.1%}",
    ]
    if "held_out_l0" in result:
        cells.append(f"{result['held_out_l0']:.2f} ± {result['interval']:.2f}")
    cells += [f"{result['fvu']:.3f}", f"{result['end']:.2g}", f"{result['sd']:.3f}", result["reversals"]]
    return "| " + " | ".join(map(str, cells)) + " |"


def write_tables() -> None:
    """`l0_targeting.md` and `results/l0_targeting.json`, from all runs that are there."""
    results: list[Result] = [json.loads(path.read_text()) for path in sorted(WORK.glob("*.json"))]
    order = ("paced", *SAECO)
    results.sort(
        key=lambda r: (
            r["world"] == "store",
            order.index(r["controller"]),
            ARCHITECTURES.index(r["architecture"]),
            r["target"],
            r["factor"] or 0,
        )
    )
    worlds = {
        "synthetic": f"The synthetic source: {World.steps} steps of {BATCH} rows; {WORLD.features} true features in "
        f"{WORLD.widths[0]} dimensions with a true L0 of {WORLD.l0:g}; d_sae {_widths(WIDTHS)}.",
        "store": f"The default run's training split (192 dimensions): {StoreWorld.steps} steps of {BATCH} rows; "
        f"d_sae {_widths(STORE_WIDTHS)}. Held-out L0 with the 95 % interval of its mean over documents.",
    }
    lines = [
        "# L0 targeting",
        "",
        "Written by `benchmarks/l0_targeting.py`, which says what is measured. "
        + ", ".join(f"{name} {value}" for name, value in machine().items())
        + f"; one thread; learning rate {LR:g}.",
        "",
        "| rows | controller | runs | saved model within 2 % | within 5 % | largest error | steered within 2 % | within 10 % "
        "| median sd of ln c | median reversals |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for world, controller in itertools.product(worlds, order):
        if not (own := [r for r in results if (r["world"], r["controller"]) == (world, controller)]):
            continue
        within = [_count(own, "error", 0.02), _count(own, "error", 0.05), f"{max(abs(r['error']) for r in own):.1%}"]
        within += [_count(own, "steered", 0.02), _count(own, "steered", 0.1)]
        middle = (statistics.median(r["sd"] for r in own), statistics.median(r["reversals"] for r in own))
        cells = [world, controller, len(own), *within, f"{middle[0]:.3f}", f"{middle[1]:g}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        f"sd: of the log coefficient about its straight line in the last {TAIL:.0%} of the run; reversals: by over 5 %, there.",
    ]
    for world, about in worlds.items():
        if not (own := [r for r in results if r["world"] == world]):
            continue
        columns = ["architecture", "target", "controller", "start", "steered", "L0", "error"]
        columns += (["held-out L0"] if world == "store" else []) + ["FVU", "coefficient", "sd", "reversals"]
        lines += [
            "",
            f"## {about.split(':')[0]}",
            "",
            about,
            "",
            "| " + " | ".join(columns) + " |",
            "|---|---:|---|" + "---:|" * (len(columns) - 3),
            *map(row, own),
        ]
    (HERE / "l0_targeting.md").write_text("\n".join(lines) + "\n")
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/l0_targeting.json").write_text(json.dumps({"machine": machine(), "runs": results}, indent=1) + "\n")


def _widths(widths: dict[int, int]) -> str:
    return ", ".join(f"{d_sae} for target {l0}" for l0, d_sae in widths.items())


def _count(results: Sequence[Result], name: str, limit: float) -> int:
    return sum(abs(result[name]) <= limit for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--targets", nargs="+", type=int, default=tuple(WIDTHS), choices=WIDTHS)
    parser.add_argument("--controllers", nargs="+", default=("paced", *SAECO), choices=("paced", *SAECO))
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS)
    parser.add_argument("--store", action="store_true", help="on the activations that `make run` has stored")
    parser.add_argument("--tables", action="store_true", help="only write the tables, from the runs that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.tables:
        world = StoreWorld() if arguments.store else World()
        axes = (arguments.controllers, arguments.targets, arguments.architectures, arguments.factors)
        for controller, target, architecture, factor in itertools.product(*axes):
            print(row(kept(world, architecture, target, controller, factor)), flush=True)
    write_tables()


if __name__ == "__main__":
    main()
