"""Several machines without a shared disk: a git remote and a DVC remote are all that they have in common.

The git remote holds, under `refs/sae`: `plans/ID` (the plan, on top of the snapshot that it runs), `leases/KEY` (who works on
a point), `points/KEY` (its record); and the experiments. A push of a ref that names the value it replaces is atomic, which is
all that a lease needs. The DVC remote holds outputs and run cache, and beside them checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.remote import RemoteFolder
from pipeline.run_config import RemoteConfig, RunConfig
from pipeline.sections import read_section
from pipeline.stage import WORK
from pipeline.sweeps.git import commit_tree, experiment_ref, git
from pipeline.sweeps.leases import locked
from pipeline.sweeps.plan import Plan, plan_of
from pipeline.sweeps.records import Record, Records
from pipeline.sweeps.workspace import Workspace
from sae.config import Failure, InputError, nearest_name

PLANS, LEASES, POINTS = "refs/sae/plans", "refs/sae/leases", "refs/sae/points"
BEAT = 20.0  # seconds between two signs of life of a lease
STALE = 75.0  # seconds without one after which a lease counts as left
CHECKPOINTS = "checkpoints"


class Machines:
    """What one machine shares with the others.

    Args:
        root: the project here.
        config: names of the remotes.
    """

    def __init__(self, root: Path, config: RemoteConfig) -> None:
        self.root, self.config = root, config
        known = git(root, "remote").splitlines()
        if config.git not in known:
            expected, nearest = ", ".join(known) or "none is set", nearest_name(config.git, known)
            raise InputError("no such git remote", where="run.remote.git", found=config.git, expected=expected, nearest=nearest)

    def publish_plan(self, plan: Plan) -> None:
        """Let other machines know a plan and the snapshot that it runs."""
        self._publish(f"{PLANS}/{plan.id}", "plan.json", asdict(plan), parent=plan.commit)

    def fetch_plan(self, sweep: str) -> None:
        """Bring a plan here, where `load_plan` finds it.

        Raises:
            InputError: there is none.
        """
        data = self._fetch(f"{PLANS}/{sweep}", "plan.json")
        if data is None:
            raise InputError("no such sweep", where=f"git remote {self.config.git}", found=sweep)
        plan_of(data).save(self.root)

    def publish_record(self, record: Record) -> None:
        """Let other machines know that a point is done, with its experiment."""
        ref = experiment_ref(record.base, record.name)
        self._git("push", "--quiet", "--force", self.config.git, f"{ref}:{ref}")
        self._publish(f"{POINTS}/{record.key}", "record.json", asdict(record))

    def fetch_record(self, key: str) -> Record | None:
        """The record of a point that any machine has done, kept here from now on; None if none has."""
        data = self._fetch(f"{POINTS}/{key}", "record.json")
        if data is None:
            return None
        record = Record(**data)
        ref = experiment_ref(record.base, record.name)
        self._git("fetch", "--quiet", "--no-tags", self.config.git, f"+{ref}:{ref}")
        Records(self.root).put(record)
        return record

    def fetch_records(self, keys: Iterable[str]) -> None:
        """Those of these points that any machine has done."""
        known = {name.rpartition("/")[2] for name in self._listed(POINTS)}
        for key in keys:
            if key in known:
                self.fetch_record(key)

    def leases(self) -> dict[str, str]:
        """By key, the last sign of life of whoever works on it."""
        return {name.rpartition("/")[2]: commit for name, commit in self._listed(LEASES).items()}

    @contextmanager
    def lease(self, key: str, wait: Callable[[float], None], on_line: Callable[[str], None]) -> Iterator[None]:
        """Only one machine at a time works on a key. A lease without a sign of life for `STALE` seconds is taken over.

        Whether it is stale this machine judges by its own clock: no two need to agree on the time.
        """
        ref = f"{LEASES}/{key}"
        seen, since, told = "", time.monotonic(), False
        while True:
            found = self._listed(ref).get(ref, "")
            if found != seen:
                seen, since = found, time.monotonic()
            mine = self._beat_commit(key)
            if (not found or time.monotonic() - since > STALE) and self._swap(ref, found, mine):
                break
            if not told:
                on_line("another machine works on this; waiting for it")
                told = True
            wait(5.0)
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(ref, key, mine, ended), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            self._git("push", "--quiet", self.config.git, f":{ref}", check=False)

    def _beat(self, ref: str, key: str, mine: str, ended: threading.Event) -> None:
        while not ended.wait(BEAT):
            fresh = self._beat_commit(key)
            if self._swap(ref, mine, fresh):
                mine = fresh

    def _beat_commit(self, key: str) -> str:
        about = {"key": key, "machine": socket.gethostname(), "process": os.getpid(), "beat": uuid.uuid4().hex}
        return self._commit("lease.json", about)

    def _swap(self, ref: str, old: str, new: str) -> bool:
        """Set a ref of the git remote to `new` if it is still at `old`; whether that was so."""
        target = self._git("remote", "get-url", self.config.git)
        self._git("update-ref", f"refs/sae/own/{os.getpid()}/{new[:12]}", new)
        done = self._git("push", "--porcelain", f"--force-with-lease={ref}:{old}", target, f"{new}:{ref}", check=False)
        self._git("update-ref", "-d", f"refs/sae/own/{os.getpid()}/{new[:12]}")
        return bool(done) and "[rejected]" not in done

    @contextmanager
    def first_time(self, key: str, wait: Callable[[float], None]) -> Iterator[bool]:
        """Whether what points share is still to be brought to this machine; others here wait until the block has ended."""
        marker = self.root / WORK / "pulled" / key
        marker.parent.mkdir(parents=True, exist_ok=True)
        with marker.open("a+", encoding="utf-8") as file:
            while not locked(file):
                wait(1.0)
            file.seek(0)
            is_first = not file.read()
            yield is_first
            if is_first:
                file.write("pulled\n")

    def push(self, workspace: Workspace) -> None:
        """Send a workspace's outputs and run cache to the DVC remote."""
        self._dvc(workspace, "push", "--run-cache", "--remote", self.config.dvc)

    @contextmanager
    def checkpoints(self, workspace: Workspace, key: str) -> Iterator[None]:
        """Inside the block, checkpoints are sent to the DVC remote now and then; the last one there is fetched first."""
        folder = RemoteFolder(self.root, self.config.dvc)
        remote = folder.path(CHECKPOINTS, f"{key[:32]}.tar")
        if not _checkpoint_folders(workspace.root) and folder.exists(remote):
            with tempfile.TemporaryDirectory() as draft:
                folder.get(remote, Path(draft) / "checkpoint.tar")
                with tarfile.open(Path(draft) / "checkpoint.tar") as archive:
                    archive.extractall(workspace.root, filter="data")
        ended = threading.Event()

        def send() -> None:
            sent: dict[str, float] = {}
            while not ended.wait(self.config.checkpoint_seconds):
                with suppress(OSError):  # it was replaced while it was read; the next one will do
                    sent = _send_checkpoints(workspace.root, folder, remote, sent)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        try:
            yield
        finally:
            ended.set()
            sending.join()
        folder.remove(remote)

    def _dvc(self, workspace: Workspace, *arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("ERROR")]
            raise Failure(f"dvc {arguments[0]} failed: {'; '.join(reason) or done.stderr.strip()}", where=self.config.dvc)

    def _publish(self, ref: str, name: str, data: dict[str, Any], parent: str | None = None) -> None:
        commit = self._commit(name, data, parent)
        self._git("update-ref", ref, commit)
        self._git("push", "--quiet", "--force", self.config.git, f"{ref}:{ref}")

    def _fetch(self, ref: str, name: str) -> Any:
        if not self._listed(ref):
            return None
        self._git("fetch", "--quiet", "--no-tags", self.config.git, f"+{ref}:{ref}")
        return json.loads(self._git("show", f"{ref}:{name}"))

    def _commit(self, name: str, data: dict[str, Any], parent: str | None = None) -> str:
        blob = git(self.root, "hash-object", "-w", "--stdin", stdin=json.dumps(data, indent=1) + "\n")
        tree = git(self.root, "mktree", stdin=f"100644 blob {blob}\t{name}\n")
        return commit_tree(self.root, tree, parent, name)

    def _listed(self, pattern: str) -> dict[str, str]:
        listed = self._git("ls-remote", self.config.git, pattern, f"{pattern}/*").splitlines()
        return {name: commit for commit, name in (line.split("\t") for line in listed)}

    def _git(self, *arguments: str, check: bool = True) -> str:
        return git(self.root, *arguments, check=check)


def machines_of(root: Path) -> Machines | None:
    """What `run.remote` in params.yaml names; None if it is not set.

    Raises:
        InputError: a remote that is not there.
    """
    config = read_section(root, "run", RunConfig).remote
    return None if config is None else Machines(root, config)


def _checkpoint_folders(root: Path) -> list[Path]:
    return [path for path in sorted((root / WORK / "train").glob("*/checkpoint")) if path.is_dir()]


def _send_checkpoints(root: Path, folder: RemoteFolder, remote: str, sent: dict[str, float]) -> dict[str, float]:
    """Send the checkpoints if they are others than those that were sent."""
    folders = _checkpoint_folders(root)
    now = {str(path): path.stat().st_mtime for path in folders}
    if not folders or now == sent:
        return sent
    with tempfile.TemporaryDirectory(dir=root / WORK) as draft:
        for path in folders:  # by links: what is replaced meanwhile stays whole here
            target = Path(draft) / path.relative_to(root)
            shutil.copytree(path, target, copy_function=os.link)
        if {str(path): path.stat().st_mtime for path in folders} != now:
            return sent
        archive = Path(draft) / "checkpoint.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(Path(draft) / WORK, arcname=str(WORK))
        folder.put(archive, remote)
    return now
