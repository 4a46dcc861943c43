"""The flow `pipeline`: the stages of `dvc.yaml`, one Prefect task each, in the user's own workspace.

A task's state says what DVC did: Ran, Cached or Unchanged. Whatever a stage prints goes to its task's log.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import deployment
from prefect.states import Completed, Failed

from pipeline import dvc
from pipeline.exits import PREFIX
from pipeline.progress import SECONDS_BETWEEN_LINES, share_done
from pipeline.project import choose_stages, find_root
from pipeline.terminal import live_line, shown
from sae.config import Failure, SaeError


@flow(name="pipeline")
def pipeline(stages: list[str] | None = None, force: bool = False) -> State[Any]:
    """Run the stages of `dvc.yaml` in this workspace, each only if something that it depends on has changed.

    Args:
        stages: The stages to run; all if empty. A stage that is left out is taken as it is.
        force: Run them even if nothing has changed.
    """
    try:
        root = find_root(Path.cwd())
        if deployment.id is not None:  # started from the UI; the command line has looked before it started us
            from pipeline.params import load_params

            load_params(root)
        chosen = choose_stages(root, stages or None)
        with only_run_in(root):
            return run_stages(root, chosen, force=force)
    except SaeError as error:
        return Failed(message=str(error), data=error)


def run_stages(root: Path, stages: Sequence[str], *, force: bool = False) -> State[Any]:
    """Run `stages` in order, up to the first that fails, and log a table of what happened to each."""
    logger = get_run_logger()
    rows = []
    for stage in stages:
        started = time.monotonic()
        state = run_stage.with_options(name=stage)(root, stage, force=force, return_state=True)
        rows.append((stage, state.name or "", time.monotonic() - started))
        if not state.is_completed():
            error = state.result(raise_on_failure=False)
            break
    rows += [(stage, "Not run", 0.0) for stage in stages[len(rows) :]]
    logger.info("%s", summary(rows), extra=shown())
    if all(outcome in {o.value for o in dvc.Outcome} for _, outcome, _ in rows):
        return Completed(message=", ".join(f"{stage}: {outcome.lower()}" for stage, outcome, _ in rows))
    return Failed(message=str(error), data=error)


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def run_stage(root: Path, stage: str, *, force: bool = False) -> State[Any]:
    """Run one stage through DVC; the state is named for what DVC did."""
    logger = get_run_logger()

    # An error that a stage reports is shown once, at the end, by whoever started the run; the log has it here too.
    reported: list[str] = []

    logged = -math.inf

    def log(line: str) -> None:
        nonlocal logged
        share = share_done(line)
        if share is not None:
            live_line.draw(stage, line, share)
            if time.monotonic() - logged < SECONDS_BETWEEN_LINES:
                return
            logged = time.monotonic()
            logger.info("%s", line, extra=None if live_line.is_drawn else shown(stage))
            return
        is_error = line.startswith(PREFIX)
        if is_error:
            reported.append(line)
        on_terminal = not (is_error or dvc.is_chatter(line))
        logger.log(logging.ERROR if is_error else logging.INFO, "%s", line, extra=shown(stage) if on_terminal else None)

    started = time.monotonic()
    try:
        outcome = dvc.run_stage(root, stage, log, force=force)
    except dvc.StageFailed as error:
        return Failed(message=str(error), data=error)
    for line in reported:  # it went on to the end all the same
        logger.warning("reported: %s", line, extra=shown(stage))
    seconds = time.monotonic() - started
    logger.info("%s (%.1f s)", outcome.value.lower(), seconds, extra=shown(stage))
    return Completed(name=outcome.value, message=f"{outcome.value.lower()}, {seconds:.1f} s")


def summary(rows: Sequence[tuple[str, str, float]]) -> str:
    """A table of stage, outcome and seconds."""
    width = max(len("stage"), *(len(stage) for stage, _, _ in rows))
    lines = [f"{'stage':<{width}}  {'outcome':<9}  {'seconds':>8}"]
    lines += [f"{stage:<{width}}  {outcome.lower():<9}  {seconds:>8.1f}" for stage, outcome, seconds in rows]
    lines.append(f"{'total':<{width}}  {'':<9}  {sum(seconds for _, _, seconds in rows):>8.1f}")
    return "\n".join(lines)


@contextmanager
def only_run_in(root: Path) -> Iterator[None]:
    """Refuse a second run in the same workspace: the two would wait for, and undo, each other's stages.

    Raises:
        Failure: another run is going on.
    """
    file = root / ".work" / "run.lock"
    file.parent.mkdir(exist_ok=True)
    with file.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip()
            raise Failure(f"another run is going on here (process {holder}); wait for it, or stop it", where=str(root)) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
