"""The Prefect server that a run talks to: a temporary one of its own, unless the user names one.

What the user's Prefect profile says does not count: it may point to a server that is long gone, or to Prefect Cloud. Only
PREFECT_API_URL in the environment, or --server, is a request. Prefect reads its settings while it is imported, so nothing
here may import it before they are set.

Prefect's own ephemeral server is not used: it sits in the terminal's process group, where Ctrl-C ends it before the run
could tell it anything, outlives us when we are killed, and starts only after Prefect is imported instead of meanwhile.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.process import Process
from sae.config import Failure, InputError

START_PATIENCE = 120.0  # seconds; 4 to 12 are usual, the longer with a new database
_NO_TELEMETRY = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


@contextmanager
def prefect_server(root: Path, url: str | None = None) -> Iterator[None]:
    """Inside the block, Prefect is imported and its server answers.

    Args:
        root: the project; a temporary server keeps its database there, in `.work/prefect`.
        url: of the server to use; None means PREFECT_API_URL, and where that is not set a temporary one.

    Raises:
        InputError: the URL is none.
        Failure: no server answers.
    """
    url = url or os.environ.get("PREFECT_API_URL")
    os.environ.update(_NO_TELEMETRY)
    if url:
        os.environ["PREFECT_API_URL"] = api_url(url)
        _check_connection()
        yield
        return
    home = root / ".work" / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    _isolate(home, port)
    server = _start(home, port)
    try:
        import prefect.main  # noqa: F401 – takes one or two seconds, in which the server starts too

        _wait_until_ready(server, home, port)
        try:
            yield
        finally:
            _send_logs()
    finally:
        server.stop()


def api_url(url: str) -> str:
    """The address of the API of the server at `url`, which may be given with or without `/api`.

    Raises:
        InputError: it is no http address.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        valid = False
    if not valid:
        raise InputError("is not the address of a Prefect server", where="--server or PREFECT_API_URL", found=url,
                         expected="something like http://127.0.0.1:4200")  # fmt: skip
    return url.rstrip("/") + ("/api" if parts.path.rstrip("/") == "" else "")


def _check_connection() -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise Failure(
            f"no Prefect server answers ({problem}); start one with `prefect server start`, or leave out --server and unset "
            "PREFECT_API_URL to run without",
            where=os.environ["PREFECT_API_URL"],
        )


def isolate_profile(home: Path, url: str) -> None:
    """Use the server at this address, whatever the user's Prefect profile says; variables in the environment count."""
    home.mkdir(parents=True, exist_ok=True)
    os.environ.update(_NO_TELEMETRY)
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_PROFILES_PATH"] = str(home / "profiles.toml")
    os.environ["PREFECT_API_URL"] = url


def _isolate(home: Path, port: int) -> None:
    """Set up this process's environment, and with it the server's, as if the user had never heard of Prefect."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(_NO_TELEMETRY)
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_PROFILES_PATH"] = str(home / "profiles.toml")
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    for name in ("NO_PROXY", "no_proxy"):  # a proxy could not reach a server that only this machine sees
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))


def _start(home: Path, port: int) -> Process:
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-ui", "--log-level", "WARNING"]
    with _log_file(home).open("wb") as log:  # in its own folder, where no .env or prefect.toml changes its settings
        return Process([sys.executable, "-m", "prefect", "server", "start", *options], cwd=home, env=os.environ, output=log)


def _wait_until_ready(server: Process, home: Path, port: int) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        try:
            direct.open(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    log = _log_file(home)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else "it printed nothing"
    raise Failure(
        f"the temporary Prefect server did not start: {reason}; all that it said is in {log}. If its database is the reason, "
        f"delete {home}. Without Prefect the stages run too: dvc repro"
    )


def _log_file(home: Path) -> Path:
    return home / "server.log"


def _send_logs() -> None:
    """Send what the run's loggers still hold back: they send in batches, and the server is about to go."""
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
