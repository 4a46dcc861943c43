"""Taking machines into use over SSH: the project goes there, is installed there, and agents run there until we end.

A machine is never ended by us. What connects its agents with the rest is the Prefect server, a git remote and a DVC remote.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from pipeline.sweeps.git import git, snapshot
from pipeline.sweeps.machines import machines_of
from sae.config import Failure, InputError

FOLDER = "sae-agents"  # on the machine, in the user's home
SETUP = "make install"
OPTIONS = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "ExitOnForwardFailure=yes")


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        address: as ssh knows it: `user@host`, or a name of its config.
        options: more options for ssh, such as `-p 2222`.
    """

    address: str
    options: tuple[str, ...] = ()

    def command(self, script: str, *options: str) -> list[str]:
        """The command that runs a script there."""
        return ["ssh", *OPTIONS, *self.options, *options, self.address, script]


class RemoteAgents:
    """The agents of other machines, as one more agent of this one.

    Args:
        root: the project.
        url: of the Prefect server's API, as it is reached from here.
        hosts: the machines.
        setup: command that installs the project, in its folder there.
        folder: where on the machines; relative to the user's home.

    Raises:
        InputError: no remotes are set, through which the machines could meet.
    """

    def __init__(self, root: Path, url: str, hosts: Sequence[Host], setup: str = SETUP, folder: str = FOLDER) -> None:
        self.root, self.url, self.hosts, self.setup, self.folder = root, url, hosts, setup, folder
        machines = machines_of(root)
        if machines is None:
            raise InputError(
                "machines that share no disk meet in a git remote and a DVC remote",
                where="run.remote",
                expected="{git: origin, dvc: NAME} in params.yaml",
            )
        self.git_remote = machines.config.git
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Copy, install and start on all machines at once.

        Raises:
            Failure: a machine can't be reached, or the project can't be installed there.
        """
        commit, _ = snapshot(self.root, "refs/sae/agents")
        errors: list[Failure] = []

        def begin(host: Host) -> None:
            try:
                self._copy(host, commit)
                self._start(host)
            except Failure as error:
                errors.append(error)

        threads = [threading.Thread(target=begin, args=(host,)) for host in self.hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            self.stop()
            raise errors[0]

    def drain(self) -> None:
        """Tell them to take up no more points."""
        for process in self._running.values():
            _write(process.stdin, b"drain\n")

    def stop(self) -> None:
        """Stop them and wait until they have ended."""
        for process in self._running.values():
            _close(process.stdin)
        for process in self._running.values():
            process.wait()

    def ended(self) -> list[str]:
        """Machines whose agents have ended."""
        return [address for address, process in self._running.items() if process.poll() is not None]

    def _copy(self, host: Host, commit: str) -> None:
        """The snapshot as a repository of its own there, with our remotes; what is installed there stays."""
        _say(host, "copying the project")
        url = git(self.root, "remote", "get-url", self.git_remote)
        bundle = subprocess.run(
            ["git", "bundle", "create", "--quiet", "-", "refs/sae/agents"], cwd=self.root, capture_output=True, check=False
        )
        if bundle.returncode:
            raise Failure(f"git bundle failed: {bundle.stderr.decode(errors='replace').strip()}", where=str(self.root))
        local = self.root / ".dvc/config.local"
        settings = local.read_text(encoding="utf-8") if local.exists() else ""
        script = f"""set -e
mkdir -p {shlex.quote(self.folder)} && cd {shlex.quote(self.folder)}
[ -d .git ] || git init --quiet .
cat > .git/agents.bundle
git fetch --quiet --no-tags .git/agents.bundle +refs/sae/agents:refs/sae/agents
rm .git/agents.bundle
git -c advice.detachedHead=false checkout --quiet --force --detach {commit}
git remote remove {shlex.quote(self.git_remote)} 2>/dev/null || true
git remote add {shlex.quote(self.git_remote)} {shlex.quote(url)}
printf %s {shlex.quote(settings)} > .dvc/config.local"""
        self._run(host, script, bundle.stdout)
        _say(host, f"installing: {self.setup}")
        self._run(host, f"cd {shlex.quote(self.folder)} && {self.setup}")

    def _start(self, host: Host) -> None:
        """Agents there, which end when this connection does. A server on this machine is reached through it."""
        parts = urlsplit(self.url)
        forward: tuple[str, ...] = ()
        if parts.hostname in ("127.0.0.1", "localhost", "::1"):
            forward = ("-R", f"127.0.0.1:{parts.port}:{parts.hostname}:{parts.port}")
        command = f"exec .venv/bin/python -m pipeline agents --no-control --on-stdin --server {shlex.quote(self.url)}"
        script = f"cd {shlex.quote(self.folder)} && {command}"
        process = subprocess.Popen(
            host.command(script, *forward), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C, which is ours to pass on
        )  # fmt: skip
        self._running[host.address] = process
        threading.Thread(target=self._show, args=(host, process.stdout), daemon=True).start()

    def _run(self, host: Host, script: str, data: bytes = b"") -> None:
        done = subprocess.run(host.command(script), input=data, capture_output=True, check=False, start_new_session=True)
        if done.returncode:
            tail = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-3:]
            raise Failure(f"this machine can't be taken into use: {'; '.join(tail) or 'no reason is given'}", where=host.address)

    def _show(self, host: Host, output: IO[bytes] | None) -> None:
        for line in output or ():
            _say(host, line.decode(errors="replace").rstrip())


def end_with_stdin(drain: Callable[[], None], stop: Callable[[], None]) -> None:
    """In a thread: drain when the line `drain` comes, stop when standard input ends."""

    def read() -> None:
        for line in sys.stdin:
            if line.strip() == "drain":
                drain()
        stop()

    threading.Thread(target=read, daemon=True).start()


def _say(host: Host, line: str) -> None:
    print(f"{host.address} | {line}", flush=True)


def _write(pipe: IO[bytes] | None, data: bytes) -> None:
    try:
        if pipe is not None:
            pipe.write(data)
            pipe.flush()
    except (BrokenPipeError, ValueError):  # it has ended
        return


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except BrokenPipeError:
        return
