"""A Prefect server, agents and a workspace of a test's own, and what a user sees and does there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from tests.pipeline.workspaces import environment

T = TypeVar("T")

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE = 400.0  # seconds; a busy machine takes long to start a dozen interpreters
MARK = "SAE_TEST_MARK"  # in the environment of all that a stack starts, and of all that these start


def wait_until(what: str, look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """The first true answer; fails if none comes."""
    deadline = time.monotonic() + patience
    while not (answer := look()):
        assert time.monotonic() < deadline, f"waited {patience:g} s for: {what}"
        time.sleep(0.2)
    return answer


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A Prefect server with a database of its own.

    Args:
        home: folder of the database.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.home.mkdir()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = httpx.Client(base_url=f"{self.url}/api", timeout=60, trust_env=False)

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        own = {"PREFECT_HOME": str(self.home), "PREFECT_PROFILES_PATH": str(self.home / "profiles.toml")}
        own |= {"PREFECT_API_URL": f"{self.url}/api", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.home, env=environment() | own, stdout=log, stderr=log, start_new_session=True
            )
        wait_until("the server", self._answers)

    def kill(self) -> None:
        """As the kernel would, out of memory: with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.home / "server.log").read_text()
        with suppress(httpx.TransportError):
            return self.api.get("/health", timeout=5).is_success
        return False

    def post(self, path: str, data: Mapping[str, Any] | None = None) -> Any:
        """Post to the API; what it answers."""
        answer = self.api.post(path, json=data or {})
        while answer.status_code == 503:  # its database is busy, as it is after a start
            time.sleep(0.2)
            answer = self.api.post(path, json=data or {})
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def get(self, path: str) -> Any:
        """Get from the API."""
        answer = self.api.get(path)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def runs(self, **flow_run_filter: Any) -> list[dict[str, Any]]:
        """Flow runs, the oldest first."""
        return list(self.post("/flow_runs/filter", {"flow_runs": flow_run_filter, "sort": "START_TIME_ASC"}))

    def run(self, run: str) -> dict[str, Any]:
        """One flow run."""
        return dict(self.get(f"/flow_runs/{run}"))

    def children(self, sweep: str) -> dict[str, dict[str, Any]]:
        """What a run of the flow `sweep` has started, by name."""
        return {run["name"]: run for run in self.runs(tags={"all_": [f"of-{sweep}"]})}

    def points(self, sweep: str) -> dict[str, dict[str, Any]]:
        """Of these, the runs of points, without what they share."""
        return {name: run for name, run in self.children(sweep).items() if not run["parameters"]["shared"]}

    def deployment(self, name: str) -> dict[str, Any]:
        """One, by its full name."""
        return dict(self.get(f"/deployments/name/{name}"))

    def start_sweep(self, sweep: Mapping[str, Any] | None = None, **parameters: Any) -> str:
        """Run the deployment; the id of the run."""
        deployment = self.deployment("sweep/sweep")["id"]
        parameters |= {} if sweep is None else {"sweep": sweep}
        run = self.post(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters, "state": {"type": "SCHEDULED"}})
        return str(run["id"])

    def cancel(self, run: str) -> None:
        """As the button in the UI does."""
        self.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True})

    def wait_for_end(self, run: str, patience: float = PATIENCE) -> dict[str, Any]:
        """The run, once it has ended."""

        def look() -> dict[str, Any] | None:
            found = self.run(run)
            return found if found["state_type"] in FINAL else None

        return wait_until(f"the end of run {run}", look, patience)

    def artifact(self, key: str) -> dict[str, Any]:
        """The latest with this key."""
        query = {"artifacts": {"key": {"any_": [key]}}, "sort": "UPDATED_DESC", "limit": 1}
        return dict(self.post("/artifacts/filter", query)[0])

    def log(self, run: str) -> str:
        """What a run logged."""
        lines: list[dict[str, Any]] = []
        while True:
            query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200, "offset": len(lines)}
            more = self.post("/logs/filter", query)
            lines += more
            if len(more) < 200:
                return "\n".join(line["message"] for line in lines)


@dataclass
class Agents:
    """`python -m pipeline agents` in a workspace.

    Attributes:
        root: the workspace.
        options: of the command.
        log: where its output goes.
        env: more of the environment.
    """

    root: Path
    options: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self) -> Agents:
        """Start them and wait until they work."""
        command = [sys.executable, "-m", "pipeline", "agents", *self.options]
        env = environment() | {MARK: self.mark, "OMP_NUM_THREADS": "1"} | dict(self.env)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=self.root, env=env, stdout=log, stderr=log, start_new_session=True)
        wait_until("the agents", self._work)
        return self

    def _work(self) -> bool:
        assert self.process.poll() is None, self.output()
        return "Ctrl-C lets them finish" in self.output()

    def output(self) -> str:
        """What they printed."""
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """All that they started and that still runs, and they themselves."""
        return [process for process in psutil.process_iter() if _variable(process, MARK) == self.mark]

    def stop(self) -> None:
        """Stop them, whatever a test did to them."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def processes_of(run: str) -> list[psutil.Process]:
    """The processes of a flow run, with all that they started."""
    return [process for process in psutil.process_iter() if run in _variable(process, "PREFECT__FLOW_RUN_ID")]


def words(process: psutil.Process) -> str:
    """Its command line; empty if it is gone."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def under(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd().startswith(str(folder)):
                found.append(words(process))
    return found


def ancestors(process: psutil.Process) -> Iterator[psutil.Process]:
    """Its parent, that one's parent, and so on."""
    with suppress(psutil.Error):
        while (parent := process.parent()) is not None:
            yield (process := parent)


def _variable(process: psutil.Process, name: str) -> str:
    """A variable of its environment; empty where it can't be read, and for a zombie."""
    with suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return str(process.environ().get(name, ""))
    return ""
