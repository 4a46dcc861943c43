"""Sweeps under Prefect, for real: a server, agents, a browser; and what happens when any of them is cancelled or killed.

All tests share a server, two agents and a workspace; each sweeps over seeds of its own, so that none finds another's points.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipeline.sweeps.records import Record, Records
from tests.pipeline.report.test_report_in_chromium import Browser, browser
from tests.pipeline.sweeps.prefect_stack import (
    FINAL,
    Agents,
    Server,
    ancestors,
    free_port,
    processes_of,
    under,
    wait_until,
    words,
)
from tests.pipeline.workspaces import ROOT, environment, make_workspace, run, write_params

__all__ = ["browser"]  # a fixture

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

GRID: dict[str, list[Any]] = {"train.l0_target": [2, 4], "sae.architecture": ["topk", "vanilla"]}
QUICK = 200  # steps
SOME_TIME = 8000
FOREVER = 10_000_000
FAILING = """
from sae.architectures.vanilla import VanillaSAE


class Fails(VanillaSAE):
    def setup(self) -> None:
        raise RuntimeError("this one never works")
"""
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Stack:
    """What the tests share.

    Attributes:
        server: of Prefect.
        root: the workspace.
        agents: one for points, and the one for sweeps.
        more: another one for points.
    """

    server: Server
    root: Path
    agents: Agents
    more: Agents

    def checkpoint(self, run: dict[str, Any]) -> int:
        """The step of a point's checkpoint; 0 if there is none."""
        clone = self.root / ".runs" / "clones" / run["parameters"]["key"][:16]
        steps = [0]
        for path in clone.glob(".work/train/*/checkpoint/state.json"):
            try:
                steps.append(int(json.loads(path.read_text())["step"]))
            except (OSError, ValueError):  # it is being replaced
                continue
        return max(steps)

    def record(self, run: dict[str, Any]) -> Record | None:
        """What is known of a point."""
        return Records(self.root).get(run["parameters"]["key"])


def make_project(folder: Path, subject: Path) -> Path:
    """A workspace with a commit, a sweep in params.yaml, and an architecture that fails."""
    root = make_workspace(folder, subject)
    shutil.copy(ROOT / "prefect.yaml", root)
    write_params(root, {"train.steps": 3000, "train.checkpoint_every": 200, "train.log_every": 100})
    with (root / "params.yaml").open("a") as file:
        file.write(f"sweep:\n  grid: {json.dumps(GRID)}\n")
    (root / "failing.py").write_text(FAILING)
    run(["git", "add", "--all"], root, check=True)
    run(["git", "-c", "user.name=me", "-c", "user.email=me@localhost", "commit", "--quiet", "-m", "Start"], root, check=True)
    return root


def dead_profile(home: Path) -> dict[str, str]:
    """The environment of a user whose Prefect profile names a server that is gone."""
    profiles = home / ".prefect" / "profiles.toml"
    profiles.parent.mkdir(parents=True)
    profiles.write_text('active = "gone"\n[profiles.gone]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    return {"HOME": str(home), "PREFECT_PROFILES_PATH": str(profiles)}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_subject: Path) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    root = make_project(folder / "a work space", tiny_subject)
    server, env = Server(folder / "server"), dead_profile(folder / "home")
    started: list[Agents] = []
    try:
        server.start()
        started.append(Agents(root, ["--cpu", "1", "--server", server.url], folder / "agents.log", env).start())
        started.append(
            Agents(root, ["--cpu", "1", "--no-control", "--server", server.url], folder / "more.log", env).start(),
        )
        yield Stack(server, root, *started)
    finally:
        for agents in started:
            agents.stop()
        server.kill()


def trains(run: dict[str, Any]) -> list[psutil.Process]:
    """The process of a point's stage `train`."""
    return [process for process in processes_of(run["id"]) if words(process).endswith("-m pipeline.stages.train")]


def seeds(*steps: int, first: int, **more: Any) -> dict[str, Any]:
    """A sweep over seeds, each with so many steps."""
    points = [{"train.seed": first + index, "train.steps": count} for index, count in enumerate(steps)]
    return {"points": points, "retry_delay": 1, **more}


def state_of_repository(root: Path) -> dict[str, Any]:
    """All in the user's repository that a sweep must leave alone."""
    asked = {name: run(["git", *name.split()], root).stdout for name in ("rev-parse HEAD", "branch -a -v", "stash list", "tag")}
    foreign = {".git", ".runs", ".work", "cache", "tmp", "__pycache__"}
    own = [path for path in root.rglob("*") if path.is_file() and not foreign & set(path.relative_to(root).parts)]
    return {
        **asked,
        "index": (root / ".git/index").read_bytes(),
        "head": (root / ".git/HEAD").read_text(),
        "status": run(["git", "--no-optional-locks", "status", "--porcelain"], root).stdout,
        "files": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in own},
    }


# The sweep of params.yaml


@pytest.fixture(scope="module")
def grid(stack: Stack) -> dict[str, Any]:
    """The run of the sweep in params.yaml, once it has ended."""
    before = state_of_repository(stack.root)
    ended = stack.server.wait_for_end(stack.server.start_sweep())
    assert state_of_repository(stack.root) == before
    return ended


def test_every_point_is_a_run_of_its_own_with_its_name_tags_and_parameters(stack: Stack, grid: dict[str, Any]) -> None:
    assert (grid["state_name"], grid["state"]["message"]) == ("Completed", "4 points, 4 of them done now")
    children, points = stack.server.children(grid["id"]), list(stack.server.points(grid["id"]).values())
    assert {run_["state_name"] for run_ in children.values()} == {"Completed"}
    assert [name.split("-")[0] for name, run_ in children.items() if run_ not in points] == ["shared"]
    seen = set()
    for point in points:
        record = stack.record(point)
        assert record is not None
        values = record.values
        expected = {f"l0_target={values['train.l0_target']}", f"architecture={values['sae.architecture']}"}
        assert set(point["tags"]) == {f"of-{grid['id']}", f"sweep-{record.sweep}", *expected}
        assert point["name"] == record.name
        assert point["name"].startswith(f"l0_target-{values['train.l0_target']}_architecture-{values['sae.architecture']}-")
        parameters = {"sweep": record.sweep, "index": record.index, "key": record.key, "shared": False, "remote": None}
        assert point["parameters"] == parameters
        assert f"L0 {record.metrics['evaluation.l0']:.4g}" in point["state"]["message"]
        seen.add((values["train.l0_target"], values["sae.architecture"]))
    assert seen == {(l0, name) for l0 in GRID["train.l0_target"] for name in GRID["sae.architecture"]}
    experiments = run(["git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps"], stack.root).stdout.split()
    assert {point["name"] for point in points} <= set(experiments)


def test_the_table_the_fronts_and_the_progress_are_artifacts(stack: Stack, grid: dict[str, Any]) -> None:
    children = list(stack.server.points(grid["id"]).values())
    sweep = children[0]["parameters"]["sweep"]
    table = stack.server.artifact(f"sweep-{sweep}-table")
    rows = json.loads(table["data"])
    assert (table["type"], table["flow_run_id"]) == ("table", grid["id"])
    assert {row["name"] for row in rows} == {child["name"] for child in children}
    for row in rows:
        record = next(found for child in children if (found := stack.record(child)) is not None and found.name == row["name"])
        assert (row["state"], row["l0_target"]) == ("done", record.values["train.l0_target"])
        assert row["FVU"] == pytest.approx(record.metrics["evaluation.fvu"], rel=1e-3)
    assert any("*" in row["front"] for row in rows)
    fronts = stack.server.artifact(f"sweep-{sweep}-fronts")
    picture = base64.b64decode(fronts["data"].split("data:image/png;base64,")[1].split(")")[0])
    assert fronts["type"] == "markdown"
    assert picture == (stack.root / ".runs" / "sweeps" / sweep / "fronts.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    progress = stack.server.artifact(f"sweep-{sweep}-progress")
    assert (progress["type"], float(progress["data"])) == ("progress", 100)


def test_a_second_run_starts_no_point(stack: Stack, grid: dict[str, Any]) -> None:
    again = stack.server.wait_for_end(stack.server.start_sweep())
    assert (again["state_name"], again["state"]["message"]) == ("Completed", "4 points, 0 of them done now")
    assert stack.server.children(again["id"]) == {}


# Killed


@dataclass(frozen=True)
class Killed:
    """What became of a point of which a process was killed.

    Attributes:
        run: of the flow, at the end.
        record: its.
        before: the step of its checkpoint when it was killed.
        after: the steps of its checkpoint that were seen from then on.
    """

    run: dict[str, Any]
    record: Record
    before: int
    after: list[int]


VICTIMS: dict[str, Callable[[psutil.Process], bool]] = {
    "agent": lambda process: "-m pipeline.agent gpu" in words(process) and "guard.py" not in words(process),
    "flow": lambda process: words(process).endswith("-m prefect.engine"),
    "stage": lambda process: words(process).endswith("-m pipeline.stages.train"),
}
KILLED = seeds(*[SOME_TIME] * 3, first=20)


@pytest.fixture(scope="module")
def killed(stack: Stack) -> dict[str, Killed]:
    """By what was killed: a point of one sweep, each killed once in the middle of its training."""
    sweep = stack.server.start_sweep(KILLED)
    left = list(VICTIMS)
    hit: dict[str, tuple[str, int, list[int]]] = {}  # by name of the point

    def look() -> bool:
        for name, run_ in stack.server.points(sweep).items():
            step = stack.checkpoint(run_)
            if name in hit:
                hit[name][2].extend([step] if step else [])
            elif left and step >= 1000 and (processes := trains(run_)):
                how = left.pop(0)
                next(process for process in (processes[0], *ancestors(processes[0])) if VICTIMS[how](process)).kill()
                hit[name] = (how, step, [])
        return stack.server.run(sweep)["state_type"] in FINAL

    wait_until("the sweep whose points are killed", look, patience=900)
    ended = stack.server.run(sweep)
    assert (ended["state_name"], ended["state"]["message"]) == ("Completed", "3 points, 3 of them done now")
    found = {}
    for name, run_ in stack.server.points(sweep).items():
        how, before, after = hit[name]
        record = stack.record(run_)
        assert record is not None
        found[how] = Killed(run_, record, before, after)
    return found


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, tmp_path_factory: pytest.TempPathFactory, tiny_subject: Path) -> dict[str, dict[str, float]]:
    """Metrics of the same points by name, made in another workspace, without a server, and in peace."""
    root = make_project(tmp_path_factory.mktemp("peace") / "work", tiny_subject)
    params = (root / "params.yaml").read_text().partition("sweep:")[0]
    (root / "params.yaml").write_text(f"{params}sweep: {json.dumps(KILLED)}\n")
    done = run([sys.executable, "-m", "pipeline", "sweep", "--jobs", "1"], root, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return {record.name: record.metrics for record in Records(root).every()}


@pytest.mark.parametrize("victim", list(VICTIMS))
def test_a_killed_point_is_tried_again_and_goes_on_from_its_checkpoint(killed: dict[str, Killed], victim: str) -> None:
    point = killed[victim]
    assert (point.run["state_name"], point.run["run_count"]) == ("Completed", 2)
    assert point.before >= 1000
    assert point.after
    assert min(point.after) >= point.before  # one that had begun anew would have saved an earlier step


@pytest.mark.parametrize("victim", list(VICTIMS))
def test_a_killed_point_ends_as_if_nothing_had_happened(
    killed: dict[str, Killed], undisturbed: dict[str, dict[str, float]], victim: str
) -> None:
    record = killed[victim].record
    assert record.metrics == undisturbed[record.name]


def test_the_reason_for_trying_again_is_logged(stack: Stack, killed: dict[str, Killed]) -> None:
    tag = next(tag for tag in killed["stage"].run["tags"] if tag.startswith("of-"))
    lines = [line for line in stack.server.log(tag.removeprefix("of-")).splitlines() if line.endswith("; again in 1 s")]
    stage = next(line for line in lines if line.startswith(killed["stage"].run["name"]))
    assert stage.endswith(": stage 'train' was ended by signal 9, as happens when memory runs out; again in 1 s")
    assert sorted(line.split(":")[0] for line in lines) == sorted(point.run["name"] for point in killed.values())


def test_points_of_a_sweep_whose_process_is_killed_are_ended(stack: Stack) -> None:
    sweep = stack.server.start_sweep(seeds(FOREVER, FOREVER, FOREVER, first=50))
    children = wait_for_training(stack, sweep, 2)
    next(process for process in processes_of(sweep) if VICTIMS["flow"](process)).kill()
    assert stack.server.wait_for_end(sweep)["state_name"] == "Crashed"
    for child in children.values():
        assert stack.server.wait_for_end(child["id"])["state_name"] == "Cancelled"
    wait_until("the end of their processes", lambda: not any(processes_of(child["id"]) for child in children.values()))
    assert under(stack.root / ".runs") == []


def wait_for_training(stack: Stack, sweep: str, count: int, only: int | None = None) -> dict[str, dict[str, Any]]:
    """The runs of a sweep's points, once so many of them (or the one of this index) train and have saved something."""

    def look() -> dict[str, dict[str, Any]]:
        children = stack.server.points(sweep)
        asked = [run_ for run_ in children.values() if only in (None, run_["parameters"]["index"])]
        busy = [run_ for run_ in asked if stack.checkpoint(run_) and trains(run_)]
        return children if len(busy) >= count else {}

    return wait_until(f"{count} points that train", look)


# Cancelled


def test_a_cancelled_point_ends_and_the_others_go_on(stack: Stack) -> None:
    sweep = stack.server.start_sweep(seeds(FOREVER, QUICK, QUICK, first=30))
    children = wait_for_training(stack, sweep, 1, only=0)
    name = next(name for name, run_ in children.items() if run_["parameters"]["index"] == 0)
    point = children[name]["id"]
    stack.server.cancel(point)
    assert stack.server.wait_for_end(point)["state_name"] == "Cancelled"
    wait_until("the end of its processes", lambda: not processes_of(point), 60)
    ended = stack.server.wait_for_end(sweep)
    assert ended["state_name"] == "Failed"
    assert ended["state"]["message"].startswith(f"1 of 3 points failed: {name}: cancelled: ")
    assert ";" not in ended["state"]["message"]
    states = {name: run_["state_name"] for name, run_ in stack.server.children(sweep).items()}
    assert sorted(states.values()) == ["Cancelled", "Completed", "Completed", "Completed"]


def test_a_cancelled_sweep_leaves_no_run_no_process_and_the_repository_as_it_was(stack: Stack) -> None:
    (stack.root / "mine.txt").write_text("not committed\n")
    (stack.root / "staged.txt").write_text("in the index\n")
    run(["git", "add", "staged.txt"], stack.root, check=True)
    before = state_of_repository(stack.root)
    sweep = stack.server.start_sweep(seeds(FOREVER, FOREVER, FOREVER, first=40))
    children = wait_for_training(stack, sweep, 2)
    stack.server.cancel(sweep)
    assert stack.server.wait_for_end(sweep)["state_name"] == "Cancelled"
    for child in children.values():
        assert stack.server.wait_for_end(child["id"])["state_name"] == "Cancelled"
    runs = [sweep, *(child["id"] for child in children.values())]
    wait_until("the end of all processes", lambda: not any(processes_of(run_) for run_ in runs), 60)
    assert under(stack.root / ".runs") == []
    assert state_of_repository(stack.root) == before
    run(["git", "reset", "--quiet"], stack.root, check=True)
    (stack.root / "mine.txt").unlink()
    (stack.root / "staged.txt").unlink()


def test_the_end_of_a_large_sweep_reaches_all_of_its_points(stack: Stack) -> None:
    sweep, deployment = str(uuid.uuid4()), stack.server.deployment("point/point")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2200-01-01T00:00:00Z"}}
    parameters = {"sweep": "none", "index": 0, "key": "none"}
    about = {"parameters": parameters, "tags": [f"of-{sweep}"], "state": later}
    made = 0
    while made < 210:  # the API lists 200 at a time
        with suppress(httpx.TransportError):  # so many at once are a burden for a server on SQLite
            stack.server.post(f"/deployments/{deployment}/create_flow_run", about)
            made += 1
    code = f"""from types import SimpleNamespace
from pipeline.sweeps.flows import stop_points
stop_points(None, SimpleNamespace(id={sweep!r}), None)"""
    env = environment() | {"PREFECT_API_URL": f"{stack.server.url}/api", **stack.agents.env}
    subprocess.run([sys.executable, "-c", code], cwd=stack.root, env=env, check=True, timeout=300)
    left = {"tags": {"all_": [f"of-{sweep}"]}, "state": {"type": {"not_any_": ["CANCELLED"]}}}
    assert stack.server.post("/flow_runs/count", {"flow_runs": left}) == 0


# The server is gone


@pytest.mark.parametrize("away", ["a moment", "until the points have ended"])
def test_a_server_that_is_killed_and_comes_back_costs_nothing_that_was_computed(stack: Stack, away: str) -> None:
    asked = seeds(SOME_TIME, SOME_TIME, QUICK, first=70 if away == "a moment" else 120)
    sweep = stack.server.start_sweep(asked)
    children = wait_for_training(stack, sweep, 2)
    busy = [child for child in children.values() if child["parameters"]["index"] < 2]
    stack.server.kill()
    try:
        if away != "a moment":
            wait_until("the records of those that trained", lambda: all(stack.record(child) for child in busy))
            wait_until("the end of their work", lambda: not any(map(trains, busy)) and under(stack.root / ".runs") == [])
    finally:
        stack.server.start()
    ended = stack.server.wait_for_end(sweep)
    assert (ended["state_name"], ended["state"]["message"]) == ("Completed", "3 points, 3 of them done now")
    assert {run_["state_name"] for run_ in stack.server.children(sweep).values()} == {"Completed"}
    for child in busy:  # done once: a second time it would have run its stages again, or found them cached
        record = stack.record(child)
        assert record is not None
        assert {name: what for name, what, _ in record.stages}["train"] == "ran"
        log = (stack.root / ".runs" / "sweeps" / record.sweep / "logs" / f"{record.name}.log").read_text()
        assert log.count("Running stage 'train'") == 1
    again = stack.server.wait_for_end(stack.server.start_sweep(asked))
    assert again["state"]["message"] == "3 points, 0 of them done now"


# A point that never works


def test_a_point_that_always_fails_is_tried_as_often_as_asked_and_named_at_the_end(stack: Stack) -> None:
    names = ["failing:Fails", "vanilla", "topk"]
    points = [{"sae.architecture": name, "train.seed": 60} for name in names]
    sweep = stack.server.start_sweep({"points": points, "retries": 2, "retry_delay": 1})
    ended = stack.server.wait_for_end(sweep)
    children = {run_["parameters"]["index"]: run_ for run_ in stack.server.points(sweep).values()}
    assert {index: (run_["state_name"], run_["run_count"]) for index, run_ in children.items()} == {
        0: ("Failed", 3),
        1: ("Completed", 1),
        2: ("Completed", 1),
    }
    reason = "stage 'train' ended with exit status 1: RuntimeError: this one never works"
    assert (ended["state_name"], ended["state"]["message"]) == (
        "Failed",
        f"1 of 3 points failed: {children[0]['name']}: failed: {reason}",
    )
    record = stack.record(children[0])
    assert record is not None
    assert (record.state, record.error) == ("failed", reason)
    rows = json.loads(stack.server.artifact(f"sweep-{record.sweep}-table")["data"])
    assert [row["state"] for row in rows] == ["failed", "done", "done"]


def test_a_mistake_in_the_sweep_ends_it_before_any_point_starts(stack: Stack) -> None:
    sweep = stack.server.start_sweep({"grid": {"train.l0_targt": [2, 4]}})
    ended = stack.server.wait_for_end(sweep)
    assert ended["state_name"] == "Failed"
    assert "did you mean 'train.l0_target'" in ended["state"]["message"]
    assert stack.server.children(sweep) == {}


# The agents


def agents_command(root: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline agents` that is to end by itself."""
    command = [sys.executable, "-m", "pipeline", "agents", *options]
    return subprocess.run(command, cwd=root, env=environment() | env, capture_output=True, text=True, timeout=300)


def test_without_a_server_the_agents_say_so_in_one_line(stack: Stack) -> None:
    ended = agents_command(stack.root, "--cpu", "1", "--server", f"http://127.0.0.1:{free_port()}")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: http://127.0.0.1:")
    assert "no Prefect server answers" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_gpu_that_is_not_there_is_a_mistake(stack: Stack) -> None:
    ended = agents_command(stack.root, "--gpus", "7", "--server", stack.server.url, CUDA_VISIBLE_DEVICES="")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: --gpus: this machine has no such GPU")
    assert ended.stderr.count("\n") == 1


def test_pools_and_deployments_are_made_where_missing_and_kept_where_there(stack: Stack, tmp_path: Path) -> None:
    server = stack.server
    pool = server.get("/work_pools/gpu")
    assert server.api.patch("/work_pools/gpu", json={"description": "mine", "concurrency_limit": 7}).is_success
    names = ["sweep/sweep", "point/point", "pipeline/pipeline"]
    before = {name: server.deployment(name)["id"] for name in names}
    assert server.api.delete(f"/deployments/{before['pipeline/pipeline']}").is_success
    agents = Agents(stack.root, ["--cpu", "1", "--no-control", "--server", server.url], tmp_path / "agents.log").start()
    agents.process.send_signal(signal.SIGINT)
    assert agents.process.wait(120) == 0
    after = {name: server.deployment(name)["id"] for name in names}
    assert {name for name in names if after[name] != before[name]} == {"pipeline/pipeline"}
    kept = server.get("/work_pools/gpu")
    assert (kept["id"], kept["type"], kept["description"], kept["concurrency_limit"]) == (pool["id"], "process", "mine", 7)
    assert server.api.patch("/work_pools/gpu", json={"concurrency_limit": None}).is_success


def runs_of(agents: Agents, children: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the runs that these agents work on."""
    ours = {process.pid for process in agents.processes()}
    return [name for name, run_ in children.items() if any(process.pid in ours for process in trains(run_))]


def test_the_first_ctrl_c_lets_a_point_finish_and_takes_up_no_other(stack: Stack) -> None:
    sweep = stack.server.start_sweep(seeds(*[SOME_TIME] * 2, *[QUICK] * 3, first=80))
    children = wait_for_training(stack, sweep, 2)
    (last,), before = runs_of(stack.more, children), len(stack.more.output())
    stack.more.process.send_signal(signal.SIGINT)
    try:
        assert stack.more.process.wait(300) == 0
        assert "taking up no more points" in stack.more.output()[before:]
        assert "Traceback" not in stack.more.output()[before:]
        assert stack.server.run(children[last]["id"])["state_name"] == "Completed"
        assert stack.more.processes() == []
        ended = stack.server.wait_for_end(sweep)
        assert (ended["state_name"], ended["state"]["message"]) == ("Completed", "5 points, 5 of them done now")
        assert "Beginning subflow run" not in stack.more.output()[before:]
    finally:
        stack.more.stop()
        stack.more.start()


def test_the_second_ctrl_c_stops_all_and_the_point_goes_on_elsewhere(stack: Stack) -> None:
    sweep = stack.server.start_sweep(seeds(SOME_TIME, SOME_TIME, first=90))
    children = wait_for_training(stack, sweep, 2)
    (point,) = runs_of(stack.more, children)
    step = stack.checkpoint(children[point])
    try:
        stack.more.process.send_signal(signal.SIGINT)
        wait_until("the first to be heard", lambda: "taking up no more points" in stack.more.output(), 60)
        stack.more.process.send_signal(signal.SIGINT)
        assert stack.more.process.wait(120) == 130
        assert stack.more.processes() == []
        assert stack.checkpoint(children[point]) >= step
        ended = stack.server.wait_for_end(sweep)
        assert (ended["state_name"], ended["state"]["message"]) == ("Completed", "2 points, 2 of them done now")
        assert stack.server.run(children[point]["id"])["run_count"] == 2
    finally:
        stack.more.stop()
        stack.more.start()


def test_agents_that_are_left_with_a_sweep_say_so_and_the_second_ctrl_c_ends_it(stack: Stack) -> None:
    stack.more.process.send_signal(signal.SIGINT)
    assert stack.more.process.wait(120) == 0
    sweep = stack.server.start_sweep(seeds(SOME_TIME, QUICK, first=100))
    children = wait_for_training(stack, sweep, 1)
    (point,) = runs_of(stack.agents, children)
    (other,) = set(children) - {point}
    try:
        stack.agents.process.send_signal(signal.SIGINT)
        wait_until("the word of the agents", lambda: "a sweep waits for points" in stack.agents.output())
        assert stack.server.run(children[point]["id"])["state_name"] == "Completed"
        assert stack.server.run(children[other]["id"])["run_count"] == 0
        stack.agents.process.send_signal(signal.SIGINT)
        assert stack.agents.process.wait(120) == 130
        assert stack.agents.processes() == []
        assert stack.server.run(sweep)["state_name"] == "Crashed"
        assert stack.server.run(children[other]["id"])["state_name"] == "Cancelled"
    finally:
        for agents in (stack.agents, stack.more):
            agents.stop()
            agents.start()


def test_the_users_prefect_profile_is_neither_used_nor_changed(stack: Stack) -> None:
    profiles = Path(stack.agents.env["PREFECT_PROFILES_PATH"])
    assert profiles.read_text().startswith('active = "gone"')
    assert [path.name for path in profiles.parent.iterdir()] == ["profiles.toml"]
    assert "127.0.0.1:9/" not in stack.agents.output()


# The UI


class Page:
    """The UI in a browser.

    Args:
        browser: with one tab.
        server: whose UI it is.
    """

    def __init__(self, browser: Browser, server: Server) -> None:
        self.browser, self.server = browser, server

    def open(self, path: str, *texts: str, size: tuple[int, int] = (1280, 1000)) -> None:
        """Open a page of the UI and wait until it shows these texts."""
        self.size(*size)
        self.browser.call("Page.navigate", url=f"{self.server.url}/v2{path}")
        self.wait_for(*texts)

    def size(self, width: int, height: int) -> None:
        """Give the window this size."""
        self.browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def wait_for(self, *texts: str) -> None:
        """Wait until the page shows these texts."""
        for text in texts:
            wait_until(f"{text!r} on the page", partial(self.shows, text), 120)

    def shows(self, text: str) -> bool:
        """Whether the page says this."""
        return text in self.text()

    def text(self) -> str:
        """All that the page says."""
        return str(self.browser.evaluate("document.body ? document.body.innerText : ''"))

    def click(self, selector: str, text: str) -> None:
        """Click on the first element that has this text, alone."""
        find = f"[...document.querySelectorAll({selector!r})].find(e => e.innerText.trim() === {text!r})"
        wait_until(f"{text!r} to click on", lambda: self.browser.evaluate(f"!!{find}"), 60)
        self._press(find)

    def write(self, label: str, value: str) -> None:
        """Replace what stands in the editor below a label."""
        find = f"""[...document.querySelectorAll('label')].find(e => e.innerText.trim().startsWith({label!r}))
            ?.closest(':has(.cm-content)').querySelector('.cm-content')"""
        there = f"!!document.querySelector('.cm-content') && !!{find}"
        wait_until(f"the editor {label!r}", lambda: self.browser.evaluate(there), 60)
        self._press(find)
        select = {"key": "a", "code": "KeyA", "windowsVirtualKeyCode": 65, "modifiers": 2, "commands": ["selectAll"]}
        self.browser.call("Input.dispatchKeyEvent", type="rawKeyDown", **select)
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", **select)
        self.browser.call("Input.insertText", text=value)

    def _press(self, find: str) -> None:
        box = f"""(e => {{
            e.scrollIntoView({{ block: 'center', behavior: 'instant' }});
            const box = e.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
        }})({find})"""
        x, y = self.browser.evaluate(box)
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, name: str) -> bytes:
        """A picture of the page as it is; kept where SAE_TEST_IMAGES names a folder for the documentation's."""
        self.browser.evaluate("document.fonts.ready.then(() => new Promise(done => setTimeout(done, 500)))")
        picture = self.browser.screenshot()
        if folder := os.environ.get("SAE_TEST_IMAGES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{name}.png").write_bytes(picture)
        return picture


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Page:
    return Page(browser, stack.server)


def test_the_form_shows_what_can_be_swept_and_starts_a_sweep(stack: Stack, page: Page) -> None:
    deployment = stack.server.deployment("sweep/sweep")["id"]
    known = {run_["id"] for run_ in stack.server.runs(deployment_id={"any_": [deployment]})}
    page.open(f"/deployments/deployment/{deployment}/run", "What to vary", size=(1280, 2130))
    page.click("[role=tab]", "SweepConfig")
    page.wait_for("By path: an axis of its own.", "How often a point that failed is tried again.")
    page.write("Grid", json.dumps({"train.seed": [110, 111], "train.l0_target": [4]}))
    page.picture("sweep-form")
    page.click("button", "Submit")

    def started() -> list[dict[str, Any]]:
        runs = stack.server.runs(deployment_id={"any_": [deployment]})
        return [run_ for run_ in runs if run_["id"] not in known]

    (sweep,) = wait_until("the run that the form starts", started, 60)
    assert sweep["parameters"]["sweep"]["grid"] == {"train.seed": [110, 111], "train.l0_target": [4]}
    ended = stack.server.wait_for_end(sweep["id"])
    assert (ended["state_name"], ended["state"]["message"]) == ("Completed", "2 points, 2 of them done now")


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"sweep": {"gird": {"train.seed": [1, 2]}}}, "gird"),
        ({"sweep": {"grid": {"train.seed": 1}}}, "sweep.grid['train.seed']"),
        ({"sweep": {"retries": -1}}, "sweep.retries"),
        ({"limit": "some"}, "limit"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_before_a_run_is_made(stack: Stack, parameters: dict[str, Any], field: str) -> None:
    deployment = stack.server.deployment("sweep/sweep")["id"]
    answer = stack.server.api.post(f"/deployments/{deployment}/create_flow_run", json={"parameters": parameters})
    assert answer.status_code in (409, 422)
    assert field in answer.json()["detail"]


def test_the_pages_of_a_sweep_show_its_points_its_table_and_its_fronts(stack: Stack, page: Page, grid: dict[str, Any]) -> None:
    children = list(stack.server.points(grid["id"]).values())
    names = [run_["name"] for run_ in children]
    sweep = children[0]["parameters"]["sweep"]
    page.open(f"/runs/flow-run/{grid['id']}?tab=SubflowRuns", grid["name"], "Completed", *names, size=(1280, 1215))
    page.picture("sweep-run")
    table, fronts = (stack.server.artifact(f"sweep-{sweep}-{kind}") for kind in ("table", "fronts"))
    page.open(f"/artifacts/artifact/{table['id']}", *names, "recovered", "front", size=(1900, 700))
    page.picture("sweep-table")
    page.open(f"/artifacts/artifact/{fronts['id']}", f"Sweep {sweep}", size=(1600, 900))
    shown = "[...document.images].some(i => i.src.startsWith('data:image/png') && i.complete && i.naturalWidth > 1000)"
    wait_until("the picture of the fronts", lambda: page.browser.evaluate(shown), 60)
    page.picture("sweep-fronts")
