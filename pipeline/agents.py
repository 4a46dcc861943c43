"""The agents of one machine: pools and deployments where they are missing, and a worker for each GPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from pipeline.process import PATIENCE, Process
from pipeline.run_config import RunConfig
from pipeline.sections import read_section
from pipeline.server import api_url, isolate_profile
from pipeline.ssh import RemoteAgents, end_with_stdin
from pipeline.stage import WORK
from sae.config import Failure, InputError

DEFAULT_SERVER = "http://127.0.0.1:4200"
POOLS = ("control", "gpu")
SWEEPS_AT_ONCE = 8
MAX_DEATHS = 3  # of an agent in a minute
QUERY_SECONDS = "2"
ALONE_AFTER = 15.0  # seconds; an agent without work needs a few of them to end


@dataclass(frozen=True)
class Slot:
    """What one agent works on.

    Attributes:
        name: of the agent, on this machine.
        cuda: value of CUDA_VISIBLE_DEVICES; None leaves it as it is.
    """

    name: str
    cuda: str | None


def slots(gpus: str | None, cpu: int | None) -> list[Slot]:
    """One for each GPU that is named, or that is there; on the CPU where there is none.

    Raises:
        InputError: a GPU that is not there, or no number of agents.
    """
    if cpu is not None:
        if cpu < 1 or gpus is not None:
            raise InputError("this is no number of agents", where="--cpu", found=cpu, expected="1 or more, and no --gpus")
        return [Slot(f"cpu{index}", "") for index in range(cpu)]
    there = _gpus()
    if gpus is None:
        return [Slot(f"gpu{gpu}", gpu) for gpu in there] or [Slot("cpu0", "")]
    named = [gpu.strip() for gpu in gpus.split(",") if gpu.strip()]
    if missing := [gpu for gpu in named if gpu not in there]:
        found = ", ".join(there) or "none; leave --gpus out to use the CPU"
        raise InputError("this machine has no such GPU", where="--gpus", found=", ".join(missing), expected=found)
    if not named or len(set(named)) < len(named):
        raise InputError("a GPU is named once", where="--gpus", found=gpus)
    return [Slot(f"gpu{gpu}", gpu) for gpu in named]


class Fleet:
    """The agents of this machine.

    Args:
        root: the project.
        server: URL of the Prefect server; None means PREFECT_API_URL, else the default one of this machine.
        slots: one agent for each.
        control: also run the agent of the pool `control`; None means: where the server is on this machine.

    Attributes:
        away: agents on other machines, which go with those of this one.
    """

    def __init__(self, root: Path, server: str | None, slots: Sequence[Slot], *, control: bool | None = None) -> None:
        self.root, self.slots = root, slots
        self.url = api_url(server or os.environ.get("PREFECT_API_URL") or DEFAULT_SERVER)
        here = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1", socket.gethostname())
        self.control = here if control is None else control
        self.drain = root / WORK / "agents" / f"{os.getpid()}.drain"
        self.away: RemoteAgents | None = None
        self._signals = 0

    def run(self, *, on_stdin: bool = False) -> int:
        """Run until Ctrl-C: the first takes up no more points and waits for those that run, the second stops them.

        Args:
            on_stdin: take the word `drain` for the first Ctrl-C, and the end of standard input for the second.

        Raises:
            Failure: no server answers, or an agent ends again and again.
        """
        self.drain.parent.mkdir(parents=True, exist_ok=True)
        self.drain.unlink(missing_ok=True)
        isolate_profile(self.root / WORK / "prefect-agents", self.url)
        self._prepare()
        wanted = {slot.name: ("gpu", 1, slot.cuda) for slot in self.slots}
        if self.control:
            wanted["control"] = ("control", SWEEPS_AT_ONCE, None)
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        processes: dict[str, Process] = {}
        if on_stdin:
            end_with_stdin(lambda: self._signal(1), lambda: self._signal(2))
        try:
            if self.away is not None:
                self.away.start()
            for name, about in wanted.items():
                processes[name] = self._start(name, *about)
            names = [*processes, *(f"those of {host.address}" for host in self.away.hosts)] if self.away else [*processes]
            print(f"agents for {self.url}: {', '.join(names)}; Ctrl-C lets them finish, twice stops them")
            sys.stdout.flush()
            return self._wait(processes, wanted)
        finally:
            self.drain.touch()
            stopping = [threading.Thread(target=process.stop) for process in processes.values()]
            if self.away is not None:
                stopping.append(threading.Thread(target=self.away.stop))
            for thread in stopping:
                thread.start()
            for thread in stopping:
                thread.join()
            for number, handler in before.items():
                signal.signal(number, handler)
            self.drain.unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Make the pools and deployments that are missing."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import WorkPoolCreate
        from prefect.exceptions import ObjectAlreadyExists

        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
            if problem is not None:
                raise Failure(
                    f"no Prefect server answers ({problem}); start one with `prefect server start`, or name one with --server",
                    where=self.url,
                )
            for name in POOLS:
                try:
                    client.create_work_pool(WorkPoolCreate(name=name, type="process"))
                except ObjectAlreadyExists:
                    continue
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run(command, cwd=self.root, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(
                f"the deployments could not be made: {done.stderr.strip() or done.stdout.strip()}", where="prefect.yaml"
            )

    def _start(self, name: str, pool: str, limit: int, cuda: str | None) -> Process:
        environment = {**self._environment(), "SAE_ROOT": str(self.root), "PREFECT_WORKER_QUERY_SECONDS": QUERY_SECONDS}
        if cuda is not None:
            environment["CUDA_VISIBLE_DEVICES"] = cuda
        full = f"{name}-{socket.gethostname()}-{os.getpid()}"
        command = [sys.executable, "-m", "pipeline.agent", pool, full, str(limit), str(self.drain)]
        # A stage has its grace time, DVC and the run a moment each after it, and then the server is told.
        patience = 4 * PATIENCE + read_section(self.root, "run", RunConfig).grace
        process = Process(command, cwd=self.root, env=environment, patience=patience)
        threading.Thread(target=self._show, args=(name, process), daemon=True).start()
        return process

    def _show(self, name: str, process: Process) -> None:
        try:
            for line in process.lines():
                if line.strip():
                    print(f"{name:<8} | {line}", flush=True)
        except ValueError:  # the pipe was closed while it was read
            return

    def _wait(self, processes: dict[str, Process], wanted: Mapping[str, tuple[str, int, str | None]]) -> int:
        """Until they are told to end. One that ends by itself, or is killed, is started again."""
        told, alone, last_but = 0, False, time.monotonic()
        deaths: dict[str, list[float]] = {name: [] for name in wanted}
        while True:
            ended = [name for name, process in processes.items() if process.poll() is not None]
            if self._signals > told:
                told = self._signals
                if told == 1:
                    self.drain.touch()
                    if self.away is not None:
                        self.away.drain()
                    print("taking up no more points; waiting for those that run; Ctrl-C again stops them", flush=True)
            if self._signals >= 2:
                return 130
            gone = self.away.ended() if self.away is not None else []
            if self._signals and len(ended) == len(processes) and (self.away is None or len(gone) == len(self.away.hosts)):
                return 0
            if gone and not self._signals:
                raise Failure("the agents of this machine have ended; their last lines are above", where=", ".join(gone))
            if not self._signals or set(processes) - set(ended) != {"control"}:
                last_but = time.monotonic()
            elif not alone and time.monotonic() - last_but > ALONE_AFTER:
                alone = True
                print("a sweep waits for points that agents elsewhere may take up; Ctrl-C again stops it", flush=True)
            for name in ended if not self._signals else ():
                deaths[name].append(time.monotonic())
                if len(deaths[name]) >= MAX_DEATHS and deaths[name][-1] - deaths[name][-MAX_DEATHS] < 60:
                    raise Failure(f"the agent {name} ends again and again; its last lines are above", where=self.url)
                print(f"{name:<8} | ended with status {processes[name].wait()}; it is started again", flush=True)
                processes[name] = self._start(name, *wanted[name])
            time.sleep(0.2)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signal(2 if number == signal.SIGTERM else 1)

    def _signal(self, count: int) -> None:
        self._signals += count

    def _environment(self) -> dict[str, str]:
        """Ours; flows find the project's packages whatever folder they start in."""
        path = os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _gpus() -> list[str]:
    """Numbers of the GPUs, asked of torch in a process of its own: it would keep memory on each of them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu]
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return [str(index) for index in range(int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.split() else 0)]
