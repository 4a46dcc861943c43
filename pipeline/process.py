"""A process of ours and all that it starts: begun as one group, read line by line, ended as one group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from pipeline import guard

PATIENCE = 5.0

_live: set[Process] = set()
_live_lock = threading.Lock()


class Process:
    """A command that runs under `pipeline.guard`, out of reach of the terminal's Ctrl-C.

    It is for us to end it (`stop`), which ends everything it started; should we die first, the guard does.

    Args:
        command: program and arguments.
        cwd: folder to run in.
        env: the whole environment.
        output: where stdout and stderr go; None keeps them for `lines`.
        patience: seconds that it has, once it is to stop, to end by itself.
        held: file descriptors, such as of a lock, that stay open until all that it started is gone, even if we are killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        output: IO[bytes] | None = None,
        patience: float = PATIENCE,
        held: Sequence[int] = (),
    ) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(patience), *command],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=held,  # to the guard, which does not hand them on
        )
        with _live_lock:
            _live.add(self)

    def lines(self) -> Iterator[str]:
        """What the process prints, a line at a time, until it and all its children have closed their output."""
        assert self._guard.stdout is not None
        for line in self._guard.stdout:
            # A progress bar redraws its line with "\r": what counts is how the line looked in the end.
            yield line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]

    def poll(self) -> int | None:
        """The exit status if the process has ended, else None."""
        return self._guard.poll()

    def wait(self) -> int:
        """Wait for the end; the exit status, 128 + n if signal n ended it."""
        status = self._guard.wait()
        self._forget()
        return status

    def stop(self) -> None:
        """End the process and all that it started, and wait until they are gone. An interrupt while waiting kills them."""
        self._close_input()
        threading.Thread(target=self._drain, daemon=True).start()
        try:
            self._guard.wait()
        except BaseException:
            self.kill()
            self._guard.wait()
            raise
        finally:
            self._forget()

    def kill(self) -> None:
        """Let whoever waits in `stop` wait no longer."""
        self._guard.send_signal(signal.SIGTERM)

    def _drain(self) -> None:
        # A stage that says goodbye into a pipe that nobody reads would hang there, and never end by itself.
        if self._guard.stdout is not None:
            with contextlib.suppress(OSError, ValueError):
                while os.read(self._guard.stdout.fileno(), 65536):
                    continue

    def _close_input(self) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()

    def _forget(self) -> None:
        with _live_lock:
            _live.discard(self)
        self._close_input()
        if self._guard.stdout is not None:
            self._guard.stdout.close()


def stop_all() -> None:
    """End every process of this module that still runs: all are told first, then waited for."""
    with _live_lock:
        processes = list(_live)
    for process in processes:
        process._close_input()
    for process in processes:
        process.stop()
