"""Sweeps on two machines: two clones with caches of their own, which share a bare git repository and a DVC remote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.run_config import RemoteConfig
from pipeline.sweeps.machines import LEASES, Machines
from tests.pipeline.workspaces import ROOT, environment, make_workspace, run

ALONE = ["unshare", "--net"]  # a network namespace of its own: not even the loopback is up
CAN_BE_ALONE = subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def machines(tmp_path: Path, tiny_subject: Path) -> tuple[Path, Path]:
    """The folders of the project on two machines."""
    one, other = tmp_path / "one machine", tmp_path / "another"
    make_workspace(one, tiny_subject)
    shutil.copy(ROOT / "prefect.yaml", one)
    with (one / ".dvc/config").open("a") as config:
        config.write(f"['remote \"store\"']\n    url = {tmp_path / 'store'}\n")
    change(one, run={"remote": {"git": "origin", "dvc": "store", "checkpoint_seconds": 0.5}})
    run(["git", "init", "--quiet", "--bare", str(tmp_path / "bare.git")], tmp_path)
    for command in (
        ["git", "add", "--all"],
        ["git", "-c", "user.name=me", "-c", "user.email=me@localhost", "commit", "--quiet", "-m", "Start"],
        ["git", "remote", "add", "origin", str(tmp_path / "bare.git")],
        ["git", "push", "--quiet", "origin", "HEAD:refs/heads/main"],
        ["git", "clone", "--quiet", "--branch", "main", str(tmp_path / "bare.git"), str(other)],
    ):
        done = run(command, one)
        assert done.returncode == 0, done.stderr
    for folder in (one, other):
        change(folder, sweep={"grid": {"train.l0_target": [2, 4]}})
    return one, other


def change(folder: Path, **sections: dict[str, Any]) -> None:
    """Change keys of sections in params.yaml."""
    path = folder / "params.yaml"
    params = YAML().load(path.read_text())
    for name, values in sections.items():
        params[name] = {**params.get(name, {}), **values}
    with path.open("w") as file:
        YAML().dump(params, file)


def sweep(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [*(ALONE if CAN_BE_ALONE else []), sys.executable, "-m", "pipeline", "sweep", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def records(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (folder / ".work/points").glob("*.json")]
    return {record["name"].rpartition("-")[0]: record for record in found}


def refs(folder: Path, pattern: str) -> list[str]:
    return run(["git", "for-each-ref", "--format=%(refname)", pattern], folder).stdout.split()


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def stages_of(folder: Path) -> list[psutil.Process]:
    """The processes of stages that run in a folder's clones."""
    found = []
    for process in psutil.process_iter():
        try:
            if "pipeline.stages.train" in process.cmdline() and process.cwd().startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.full
def test_two_machines_share_the_points_and_what_one_made_the_other_does_not_make_again(machines: tuple[Path, Path]) -> None:
    one, other = machines
    first = sweep(one, "--only", "0")
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    second = sweep(other)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    assert "2 points, 1 done already, 1 to do" in output
    assert records(other)["l0_target-2"] == records(one)["l0_target-2"]
    outcomes = {stage: outcome for stage, outcome, _ in records(other)["l0_target-4"]["stages"]}
    assert [stage for stage, outcome in outcomes.items() if outcome == "ran"] == ["inputs", "train", "evaluate", "report"]
    third = sweep(one)
    output, _ = third.communicate(timeout=120)
    assert "2 points, 2 done already, 0 to do" in output
    shared = one.parent / "bare.git"
    assert len(refs(shared, "refs/exps")) == 2
    assert refs(shared, LEASES) == []
    assert refs(one, "refs/exps") == refs(other, "refs/exps")
    name = records(one)["l0_target-4"]["name"]  # ran on the other machine
    run(["git", "checkout", "--quiet", "--", "params.yaml"], one)
    for command in (["dvc", "exp", "pull", "--remote", "store", "origin", name], ["dvc", "exp", "apply", name]):
        done = run(command, one)
        assert done.returncode == 0, done.stderr
    assert (one / "data/sae/model.safetensors").exists()


@pytest.mark.full
def test_the_point_of_a_lost_machine_is_taken_up_from_the_checkpoint_that_it_sent(machines: tuple[Path, Path]) -> None:
    one, other = machines
    for folder in machines:
        change(folder, train={"steps": 6000, "checkpoint_every": 100}, sweep={"grid": {"train.l0_target": [3]}})
    lost = sweep(one)
    sent = one.parent / "store/checkpoints"
    until(lambda: list(sent.glob("*.tar")) and stages_of(one))
    time_of_first = next(sent.glob("*.tar")).stat().st_mtime
    until(lambda: next(sent.glob("*.tar")).stat().st_mtime > time_of_first)
    os.killpg(lost.pid, signal.SIGKILL)
    until(lambda: not stages_of(one), 30)
    began = time.monotonic()
    taken = sweep(other)
    output, _ = taken.communicate(timeout=400)
    assert taken.returncode == 0, output
    assert "another machine works on this; waiting for it" in output
    assert time.monotonic() - began < 300
    (log,) = (other / ".runs").glob("sweeps/*/logs/*.log")
    steps = [int(line.split()[1].replace(",", "")) for line in log.read_text().splitlines() if " of 6,000 steps" in line]
    assert min(steps) > 100, "it began at the first step"
    assert list(sent.glob("*.tar")) == []
    (alone,) = records(other).values()
    run(["git", "remote", "remove", "origin"], one)
    change(one, run={"remote": None})
    undisturbed = sweep(one, "--only", "0")
    output, _ = undisturbed.communicate(timeout=400)
    assert undisturbed.returncode == 0, output
    (mine,) = records(one).values()
    assert (mine["metrics"], mine["outputs"]) == (alone["metrics"], alone["outputs"])


def test_a_lease_is_had_by_one_machine_and_taken_over_when_its_holder_gives_no_sign_of_life(
    machines: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Machines(folder, RemoteConfig(git="origin", dvc="store")) for folder in machines)
    monkeypatch.setattr("pipeline.sweeps.machines.STALE", 1.0)
    monkeypatch.setattr("pipeline.sweeps.machines.BEAT", 0.2)
    told: list[str] = []
    waits = []

    def wait(_: float) -> None:
        waits.append(time.monotonic())
        time.sleep(0.3)
        if len(waits) > 8:
            raise TimeoutError

    with one.lease("key", wait, told.append), pytest.raises(TimeoutError), other.lease("key", wait, told.append):
        raise AssertionError("two machines have it")
    assert told == ["another machine works on this; waiting for it"]
    waits.clear()
    with other.lease("key", wait, told.append):
        assert list(other.leases()) == ["key"]
    assert waits == []
    monkeypatch.setattr("pipeline.sweeps.machines.BEAT", 1000.0)  # a machine that is gone
    with one.lease("key", wait, told.append):
        began = time.monotonic()
        with other.lease("key", wait, told.append):
            assert time.monotonic() - began > 1.0


@contextmanager
def ssh_server(folder: Path) -> Iterator[str]:
    """A real sshd on this machine's loopback; the options that reach it."""
    folder.mkdir()
    for name in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/key.pub"]
    (folder / "config").write_text("\n".join([*lines, "StrictModes no", "UsePAM no", "PidFile none"]) + "\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "config")])
    try:
        yield f"-p {port} -i '{folder}/key' -o UserKnownHostsFile='{folder}/known' -o StrictHostKeyChecking=no"
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.mark.full
def test_a_machine_is_taken_into_use_over_ssh_and_given_back(machines: tuple[Path, Path], tmp_path: Path) -> None:
    one, _ = machines
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not by 127.0.0.1: that would be forwarded through the connection, and here both ends are one machine.
    url = f"http://{socket.gethostname()}:{port}"
    env = {
        **environment(),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "0.0.0.0", "--port", str(port), "--no-ui"]
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    away = tmp_path / "away"
    setup = f"ln -sfn '{Path(sys.prefix)}' .venv"
    try:
        with ssh_server(tmp_path / "ssh") as options:
            until(lambda: subprocess.run(["curl", "-sf", f"{url}/api/health"], capture_output=True, check=False).returncode == 0)
            arguments = ["--ssh", "127.0.0.1", "--ssh-options", options, "--setup", setup, "--folder", str(away), "--server", url]
            log = tmp_path / "agents.log"
            with log.open("w") as out:
                agents = subprocess.Popen(
                    [sys.executable, "-m", "pipeline", "agents", *arguments],
                    cwd=one,
                    env=environment(),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            until(lambda: log.read_text().count("started!") == 2 or agents.poll() is not None)
            assert agents.poll() is None, log.read_text()
            subprocess.run([sys.executable, "-m", "prefect", "deployment", "run", "sweep/sweep"], env=env, cwd=one, check=True)
            until(lambda: "of them done now" in log.read_text() or "points failed" in log.read_text(), 300)
            assert "2 points, 2 of them done now" in log.read_text()
            assert {record["state"] for record in records(one).values()} == {"done"}
            assert list((away / ".dvc/cache").glob("files/md5/*")), "the points did not run there"
            os.kill(agents.pid, signal.SIGINT)
            assert agents.wait(60) == 0
            assert [p for p in psutil.process_iter(["cmdline"]) if str(away) in " ".join(p.info["cmdline"] or [])] == []
            assert away.exists()
    finally:
        server.terminate()
        server.wait()
