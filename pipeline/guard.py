"""Stands between us and a process that we start, so that it never outlives us.

    python -I -S guard.py SECONDS COMMAND…

The command runs in a process group of its own, and the guard holds the reading end of a pipe: its standard input. When
that closes, because our side asks for it or because our process is gone (killed with -9, out of memory), the guard ends
the whole group. A signal to one process would not do: DVC killed alone leaves its stage running, and the next run starts
a second one that writes the same files. The kernel's PR_SET_PDEATHSIG would reach only the direct child, and only on Linux.

It stands alone, without an import of ours, so that it starts in a hundredth of a second.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

# How the group is asked to end after SIGINT, and how many seconds it gets each time.
ESCALATION = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 2.0))


def main(patience: float, command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; its exit status, 128 + n for signal n.

    Args:
        patience: seconds that it has to end by itself, once it got SIGINT.
        command: program and arguments.
    """
    # Set before the child exists: a handler, unlike SIG_IGN, is not inherited. So the child also gets back the SIGINT
    # that a shell takes away from what it starts with `&`.
    signal.signal(signal.SIGINT, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)

    def kill_now(signum: int, frame: FrameType | None) -> None:
        _send(child.pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, kill_now)  # how our side says that it does not want to wait any longer
    threading.Thread(target=_end_when_input_closes, args=(child.pid, patience), daemon=True).start()
    status = child.wait()
    end_group(child.pid, patience)  # what the command left behind in its group
    return status if status >= 0 else 128 - status


def end_group(group: int, patience: float) -> None:
    """End every process of `group`: SIGINT, later SIGTERM, later SIGKILL. Returns when they are gone.

    SIGINT comes first because it is what DVC is prepared for: it lets the stage take it, waits for it, and gives its
    locks back on the way out.
    """
    for signum, seconds in ((signal.SIGINT, patience), *ESCALATION):
        deadline = time.monotonic() + seconds
        if not _send(group, signum):
            return
        while time.monotonic() < deadline:
            if not _send(group, 0):
                return
            time.sleep(0.02)


def _end_when_input_closes(group: int, patience: float) -> None:
    while os.read(0, 1024):
        continue
    end_group(group, patience)


def _send(group: int, signum: int) -> bool:
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # macOS: "not permitted" for a group of which only zombies are left
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
