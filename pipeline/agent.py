"""An agent: a Prefect worker that takes up one run at a time, and can be told to take up no more.

    python -m pipeline.agent POOL NAME LIMIT DRAIN_FILE

Once the drain file exists it ends as soon as it has nothing to do; SIGINT or SIGTERM end it at once, and what it runs too.
Its runs are ended by SIGTERM, and waited for: Prefect's worker would kill them, and the server would call them running for ever.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is work to stop, with no traceback out of the imports below

import anyio  # noqa: E402
import psutil  # noqa: E402
from prefect.workers.process import ProcessWorker  # noqa: E402

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


async def serve(pool: str, name: str, limit: int, drain: Path) -> None:
    """Work until drained or told to stop.

    Args:
        pool: that runs are taken from.
        name: of the worker.
        limit: runs at a time.
        drain: file that tells it to take up no more.
    """
    worker = ProcessWorker(work_pool_name=pool, name=name, limit=limit, create_pool_if_not_found=False)
    take_up = worker.get_and_submit_flow_runs
    drained, ending = anyio.Event(), anyio.Event()

    async def unless_drained() -> list[FlowRun]:
        if ending.is_set():
            return []
        if not drain.exists():
            return await take_up()
        if worker.limiter.borrowed_tokens == 0:
            drained.set()
        return []

    # Not a subclass: Prefect would put that in the place of its own type of worker, and warn.
    worker.get_and_submit_flow_runs = unless_drained  # type: ignore[method-assign]
    async with anyio.create_task_group() as group:

        async def end() -> None:
            ending.set()
            told: set[int] = set()
            while worker.limiter.borrowed_tokens:  # until the ends of all runs are known, and reported
                for process in psutil.Process().children():
                    if process.pid not in told:
                        told.add(process.pid)
                        process.terminate()
                await anyio.sleep(0.1)
            group.cancel_scope.cancel()

        async def end_when_drained() -> None:
            await drained.wait()
            group.cancel_scope.cancel()

        async def end_when_orphaned() -> None:  # the guard that would end us is gone
            parent = os.getppid()
            while os.getppid() == parent:
                await anyio.sleep(1)
            await end()

        async def end_on_signal() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    if ending.is_set():  # the guard has run out of patience
                        group.cancel_scope.cancel()
                    group.start_soon(end)

        group.start_soon(end_when_drained)
        group.start_soon(end_when_orphaned)
        group.start_soon(end_on_signal)
        await worker.start(printer=lambda text: print(text, flush=True))


if __name__ == "__main__":
    pool, name, limit, drain = sys.argv[1:]
    anyio.run(serve, pool, name, int(limit), Path(drain))
