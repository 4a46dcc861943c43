"""Run stages through DVC, in a process of its own: its output a line at a time, and what DVC did about each.

Not in this process: DVC's own API writes a stage's output to file descriptor 1, does not tell "ran" from "restored from
the run cache", and could be stopped only together with us. The command costs about a second per stage.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from pipeline.exits import find_error
from pipeline.interpreter import STARTED_BY
from pipeline.process import PATIENCE, Process
from pipeline.progress import SECONDS_VARIABLE
from pipeline.run_config import RunConfig
from pipeline.sections import read_section
from sae.config import Failure

TAIL = 40  # lines of a stage's output that its error keeps


class Outcome(Enum):
    """What DVC did about a stage. The values are the names of the Prefect states."""

    RAN = "Ran"
    CACHED = "Cached"  # run before with the same inputs: its outputs were restored
    UNCHANGED = "Unchanged"  # its outputs are there and belong to its inputs


class StageFailed(Failure):
    """A stage did not get to its end.

    Args:
        stage: its name.
        message: what went wrong, in the stage's own words where it has some.
        tail: the last lines that it and DVC printed.
        status: the exit status of the stage's command; None if DVC failed, not the command.
        exit_code: 2 if the stage found a user's mistake, else 1.
    """

    def __init__(self, stage: str, message: str, *, tail: list[str], status: int | None = None, exit_code: int = 1) -> None:
        super().__init__(message)
        self.stage = stage
        self.tail = tail
        self.status = status
        self.exit_code = exit_code


def run_stage(root: Path, stage: str, on_line: Callable[[str], None], *, force: bool = False) -> Outcome:
    """Bring one stage up to date, without those before it.

    However this is left, by an interrupt too, no process of the stage is left running and DVC's locks are free.

    Args:
        root: the project.
        stage: a stage of its `dvc.yaml`.
        on_line: called with every line that the stage and DVC print, in this thread.
        force: run it even if nothing changed.

    Raises:
        StageFailed: the stage's command, or DVC, did not succeed.
    """
    [[_, outcome, _]] = run_stages(root, [stage], on_line, alone=True, force=force)
    return outcome


def run_stages(
    root: Path,
    stages: Sequence[str],
    on_line: Callable[[str], None],
    *,
    alone: bool = False,
    force: bool = False,
    pull: bool = False,
    held: Sequence[int] = (),
    on_start: Callable[[Process], None] = lambda _: None,
) -> list[tuple[str, Outcome, float]]:
    """Bring stages up to date, with those before them, in one call of DVC, whose start costs a second.

    Args:
        root: the project.
        stages: stages of its `dvc.yaml`.
        on_line: called with every line that the stages and DVC print, in this thread.
        alone: leave those before them as they are.
        force: run them even if nothing changed.
        pull: fetch from the default DVC remote what was made elsewhere.
        held: file descriptors that stay open until all processes have ended, even if we are killed.
        on_start: called with the process; whoever keeps it may stop it from another thread.

    Returns:
        Stage, what DVC did about it, and seconds, in order.

    Raises:
        StageFailed: a stage's command, or DVC, did not succeed.
    """
    # --wait-for-lock is about DVC's lock on the repository, which is held for moments: another command may hold it just now.
    options = [*(["--single-item"] if alone else []), *(["--force"] if force else []), *(["--pull"] if pull else [])]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *options, *stages]
    # The stage may take its whole grace time, and DVC a moment after it.
    patience = PATIENCE + read_section(root, "run", RunConfig).grace
    process = Process(command, cwd=root, env=_environment(root), patience=patience, held=held)
    seen: list[tuple[str, Outcome, float]] = []  # the last number is the time of its beginning
    tail: deque[str] = deque(maxlen=TAIL)
    try:
        on_start(process)
        for line in process.lines():
            if (found := outcome_of(line)) is not None and found[0] not in [stage for stage, _, _ in seen]:
                seen.append((*found, time.monotonic()))
                tail.clear()  # what the stages before it said is no reason for its failure
            tail.append(line)
            on_line(line)
        status = process.wait()
    except BaseException:
        process.stop()
        raise
    if status != 0:
        raise _failure(_failed_stage(list(tail)) or (seen[-1][0] if seen else stages[0]), list(tail), status)
    seen += [(stage, Outcome.UNCHANGED, time.monotonic()) for stage in stages if stage not in [name for name, _, _ in seen]]
    ends = [began for _, _, began in seen[1:]] + [time.monotonic()]
    return [(stage, outcome, end - began) for (stage, outcome, began), end in zip(seen, ends, strict=True)]


def is_chatter(line: str) -> bool:
    """Whether a line is DVC talking about itself, rather than a stage about its work or DVC about an error."""
    return _CHATTER.match(line) is not None


_CHATTER = re.compile(
    r"\s*$|Running stage '|> |Stage '.*' (didn't change, skipping|is cached - skipping run)|Data and pipelines are up to date"
    r"|(Generating|Updating) lock file '|To track the changes with git, run:|\tgit add |To enable auto staging, run:"
    r"|\tdvc config core\.autostage|Use `dvc push` to send|WARNING: '.*' is empty\.|Verifying outputs in frozen stage"
    r"|ERROR: failed to reproduce '"
)
_DVC_ERROR = re.compile(r"ERROR: (failed to reproduce '.*?': )?")
_FAILED = re.compile(r"ERROR: failed to reproduce '(.+?)':")
_STAGE_STATUS = re.compile(r"ERROR: failed to reproduce '.*': failed to run: .*, exited with (-?\d+)$")


_OUTCOME = re.compile(r"(?:(Running stage)|Stage) '(.+?)'(?: (is cached)| (didn't change))?")


def outcome_of(line: str) -> tuple[str, Outcome] | None:
    """Stage and outcome, if this is the line in which DVC says what it does about a stage."""
    match = _OUTCOME.match(line)
    if match is None or not any(match.group(1, 3, 4)):
        return None
    return match[2], Outcome.RAN if match[1] else Outcome.CACHED if match[3] else Outcome.UNCHANGED


def _failed_stage(tail: list[str]) -> str | None:
    return next((match[1] for line in tail if (match := _FAILED.match(line))), None)


def _failure(stage: str, tail: list[str], dvc_status: int) -> StageFailed:
    """DVC's exit status is 255 whatever happened; what did happen stands in its last lines."""
    statuses = [int(match[1]) for line in tail if (match := _STAGE_STATUS.match(line))]
    if not statuses:
        reasons = [_DVC_ERROR.sub("", line) for line in tail if _DVC_ERROR.match(line)]
        reason = "; ".join(reasons) or f"DVC ended with status {dvc_status}"
        return StageFailed(stage, f"stage {stage!r} could not be run: {reason}", tail=tail)
    status = statuses[-1]
    error = find_error(tail)
    if status == 2 and error is not None:
        return StageFailed(stage, error, tail=tail, status=status, exit_code=2)
    how = f"ended with exit status {status}" if status >= 0 else f"was ended by signal {-status}"
    if status in (-9, 137):
        how += ", as happens when memory runs out"
    last = next((line for line in reversed(tail) if not is_chatter(line)), None)
    detail = error or last
    return StageFailed(stage, f"stage {stage!r} {how}" + (f": {detail}" if detail else ""), tail=tail, status=status)


def _environment(root: Path) -> dict[str, str]:
    """Ours, so changed that `python` in a stage's command is the interpreter that runs this."""
    path = [str(_python_folder(root)), os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        STARTED_BY: sys.executable,
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
        **({SECONDS_VARIABLE: "0.5"} if sys.stdout.isatty() else {}),  # the terminal gets a bar
    }


def _python_folder(root: Path) -> Path:
    """A folder in which `python` is this interpreter.

    The interpreter's own folder is not always one: it may have a `python3` only, or a `python` of another version. A
    script and not a link, because the interpreter of a virtual environment finds its packages by where it is started from.
    """
    folder = root / ".work" / "bin"
    script = folder / "python"
    content = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'
    if not script.is_file() or script.read_text(encoding="utf-8") != content:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"python.{os.getpid()}"
        draft.write_text(content, encoding="utf-8")
        draft.chmod(0o755)
        draft.replace(script)
    return folder
