"""Is the truth recovered? Our architectures and other libraries' on one frozen file of activations with known features.

    python benchmarks/recovery.py                      everything that is missing, then the tables
    python benchmarks/recovery.py --tools sae_lens     only these tools
    python benchmarks/recovery.py --tables             only the tables, from what is there

Every SAE sees the same rows in the same order (decided by the seed), for the same number of steps. A result is one JSON in
`.work/recovery/results`; what is there is not done again. How a learning rate is chosen and how L0 is met: see README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recovery_data import Frozen
from recovery_ours import ENTRIES
from recovery_tables import write_tables

from sae.config import derive_seed

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".work/recovery"
STEPS, BATCH_SIZE, D_SAE = 2928, 1024, 512
LEARNING_RATES, SEEDS = (3e-3, 1e-3), (0, 1, 2)
TOLERANCE = 0.05  # of the true L0
TRIALS = 6  # at most, to meet it

Result = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One architecture of one library.

    Attributes:
        coefficient: the first to try: a penalty's weight, or the wanted L0.
        slope: how log L0 moves with log coefficient, roughly; it sizes the second trial. None: the coefficient is k, and
            nothing is to be searched.
    """

    tool: str
    architecture: str
    coefficient: float
    slope: float | None = None


PEERS = [
    Entry("sae_lens", "topk", 7),
    Entry("sae_lens", "batchtopk", 7, 1.0),
    Entry("sae_lens", "matryoshka_batchtopk", 7, 1.0),
    Entry("sae_lens", "standard", 5.0, -0.9),
    Entry("sae_lens", "gated", 5.0, -0.7),
    Entry("sae_lens", "jumprelu", 1.0, -0.6),
    Entry("dictionary_learning", "topk", 7),
    Entry("dictionary_learning", "batchtopk", 7),
    Entry("dictionary_learning", "matryoshka_batchtopk", 7),
    Entry("dictionary_learning", "standard", 0.44, -0.9),
    Entry("dictionary_learning", "april_update", 0.44, -0.9),
    Entry("dictionary_learning", "gated", 0.44, -0.7),
    Entry("dictionary_learning", "p_anneal", 0.1, -0.6),
    Entry("dictionary_learning", "jumprelu", 7.0, 1.0),
    Entry("sparsify", "topk", 7),
    Entry("sae_lens", "jumprelu_target", 7.0, 1.0),
]
OURS = [Entry("ours", name, 7) for name in ENTRIES]


class Workers:
    """A process for each tool, that is given jobs one after another."""

    def __init__(self, peers_python: Path) -> None:
        self.peers_python = peers_python
        self._running: dict[str, subprocess.Popen[str]] = {}

    def work(self, job: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer.

        Raises:
            RuntimeError: it died; with the end of what it said.
        """
        tool = job["tool"]
        log = WORK / f"{tool}.{os.getpid()}.log"
        if tool not in self._running:
            python, script = (sys.executable, "recovery_ours") if tool == "ours" else (self.peers_python, "recovery_peers")
            if not Path(python).exists():
                raise SystemExit(f"error: {python} is missing: make peers makes it")
            self._running[tool] = subprocess.Popen(
                [str(python), str(ROOT / "benchmarks" / f"{script}.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log.open("w"),
                env=os.environ | {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(ROOT)} if tool == "ours" else {}),
                text=True,
            )
        worker = self._running[tool]
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        if not answer:
            del self._running[tool]
            worker.wait()
            raise RuntimeError(f"{tool} {job['architecture']} failed:\n" + "\n".join(log.read_text().splitlines()[-12:]))
        answered: dict[str, Any] = json.loads(answer)
        return answered


class Benchmark:
    """Results by job: looked up, else worked out."""

    def __init__(self, frozen: Frozen, workers: Workers, results: Path, *, steps: int = STEPS) -> None:
        self.frozen, self.workers, self.results, self.steps = frozen, workers, results, steps
        self.true_l0 = float(frozen.source.probability_G.sum())
        results.mkdir(parents=True, exist_ok=True)

    def job(self, entry: Entry, lr: float, seed: int, coefficient: float) -> dict[str, Any]:
        """All that decides a result."""
        steps = self.steps
        epochs = math.ceil(steps * BATCH_SIZE / self.frozen.rows_count) + 1
        return {
            "tool": entry.tool,
            "architecture": entry.architecture,
            "coefficient": coefficient,
            "lr": lr,
            "seed": seed,
            "steps": steps,
            "batch_size": BATCH_SIZE,
            "d_in": self.frozen.d_in,
            "d_sae": D_SAE,
            "lr_warm_up_steps": steps // 20,
            "lr_decay_steps": steps // 5,
            "sparsity_warm_up_steps": steps // 5,
            "dead_steps": max(2, steps // 30),
            "epoch_seeds": [derive_seed(seed, "rows", f"epoch {epoch}") for epoch in range(epochs)],
            "data": self.frozen.sha256,
        } | ({"settings": ENTRIES[entry.architecture]} if entry.tool == "ours" else {})

    def result(self, entry: Entry, lr: float, seed: int, coefficient: float) -> Result:
        """Of one run."""
        job = self.job(entry, lr, seed, coefficient)
        digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:12]
        path = self.results / f"{entry.tool}.{entry.architecture}.{lr:g}.seed{seed}.{coefficient:.5g}.{digest}.json"
        if path.exists():
            known: Result = json.loads(path.read_text())
            return known
        with tempfile.TemporaryDirectory(dir=WORK) as folder:
            out = Path(folder) / "out.safetensors"
            files = {"rows": str(self.frozen.rows), "held_out": str(self.frozen.held_out), "out": str(out)}
            answer = self.workers.work(job | files)
            result = job | answer | self.frozen.measure(out)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1))
        partial.rename(path)
        shown = {name: round(result[name], 3) for name in ("l0", "mcc", "f1", "uniqueness", "fvu", "dead") if name in result}
        print(entry.tool, entry.architecture, f"lr {lr:g} seed {seed} coefficient {coefficient:.4g}:", shown, flush=True)
        return result

    def at_true_l0(self, entry: Entry, lr: float, seed: int, start: float) -> Result:
        """The first result within the tolerance of the true L0, or, where `TRIALS` do not get there, the nearest.

        The coefficient is moved by the secant through what was seen, in logarithms; between two trials that lie on both
        sides of the target it stays between them.
        """
        seen: list[tuple[float, float, Result]] = []  # log coefficient, log (L0 / true L0), result
        coefficient = start
        for _ in range(1 if entry.slope is None else TRIALS):
            result = self.result(entry, lr, seed, coefficient)
            off = max(-1.5, math.log(max(result.get("l0", 0.0), 0.01) / self.true_l0))
            seen.append((math.log(coefficient), off, result))
            if abs(math.exp(off) - 1) <= TOLERANCE:
                break
            coefficient = math.exp(_next(seen, entry.slope or 1.0))
        return min(seen, key=lambda trial: abs(trial[1]))[2]


def _next(seen: list[tuple[float, float, Result]], slope: float) -> float:
    """The log coefficient to try after these trials."""
    nearest = sorted(seen, key=lambda trial: abs(trial[1]))
    at, off = nearest[0][:2]
    across = next((trial for trial in nearest[1:] if (trial[1] > 0) != (off > 0)), None)
    if across is not None and (seen[-1][1] > 0) == (seen[-2][1] > 0):
        return (at + across[0]) / 2  # the secant came from one side twice: there is a bend, or a cliff
    other = across or (nearest[1] if len(nearest) > 1 else None)
    if other is not None and abs(other[0] - at) > 1e-6:
        measured = (other[1] - off) / (other[0] - at)
        if measured * slope > 0:  # else it is noise: keep to what is known of the architecture
            slope = measured
    step = max(-1.5, min(1.5, -off / slope))
    if across is not None:
        between = (across[0] - at) * 0.9
        step = max(min(step, max(between, 0.0)), min(between, 0.0))
    return at + step


def better(results: list[Result], true_l0: float) -> Result:
    """The one with the greater MCC + F1, of those that meet L0 if any does."""
    meet = [result for result in results if abs(result.get("l0", 0.0) / true_l0 - 1) <= TOLERANCE]
    return max(meet or results, key=lambda result: result.get("mcc", 0.0) + result.get("f1", 0.0))


def run(benchmark: Benchmark, entries: list[Entry], seeds: list[int], rates: list[float]) -> list[str]:
    """Every entry at its better learning rate, decided on the first seed. Returns what failed."""
    failures: list[str] = []

    def attempt(entry: Entry, lr: float, seed: int, start: float) -> list[Result]:
        try:
            return [benchmark.at_true_l0(entry, lr, seed, start)]
        except RuntimeError as error:
            failures.append(str(error))
            return []

    first: dict[Entry, list[Result]] = {entry: [] for entry in entries}
    for lr in rates:
        for entry, results in first.items():
            results += attempt(entry, lr, seeds[0], results[0]["coefficient"] if results else entry.coefficient)
    for seed in seeds[1:]:
        for entry, results in first.items():
            if results:
                chosen = better(results, benchmark.true_l0)
                attempt(entry, chosen["lr"], seed, chosen["coefficient"])
    return failures


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", help="comma-separated: ours, sae_lens, dictionary_learning, sparsify")
    parser.add_argument("--architectures", help="comma-separated names, as in the tables")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="comma-separated; the first decides learning rates")
    parser.add_argument("--lr", default=",".join(map(str, LEARNING_RATES)), help="comma-separated learning rates to choose from")
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers/bin/python", help="Python of the peers' environment")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    arguments = parser.parse_args()
    tools = arguments.tools.split(",") if arguments.tools else ["ours", "sae_lens", "dictionary_learning", "sparsify"]
    names = arguments.architectures.split(",") if arguments.architectures else None
    entries = [e for e in OURS + PEERS if e.tool in tools and (names is None or e.architecture in names)]
    frozen = Frozen(WORK)
    benchmark = Benchmark(frozen, Workers(arguments.peers), WORK / "results")
    seeds, rates = [int(seed) for seed in arguments.seeds.split(",")], [float(lr) for lr in arguments.lr.split(",")]
    failures = [] if arguments.tables else run(benchmark, entries, seeds, rates)
    write_tables(benchmark, arguments.peers)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
