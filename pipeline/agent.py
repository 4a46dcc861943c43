"""An agent: a Prefect worker that takes up one run at a time, and can be told to take up no more.

    python -m pipeline.agent POOL NAME LIMIT DRAIN_FILE

Once the drain file exists it ends as soon as it has nothing to do; SIGINT or SIGTERM end it at once, and what it runs too.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from prefect.workers.process import ProcessWorker

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


class Agent(ProcessWorker):
    """A process worker with an end.

    Args:
        drain: file that tells it to take up no more.
        options: of `ProcessWorker`.
    """

    type = "process"

    def __init__(self, drain: Path, **options: Any) -> None:
        super().__init__(**options)
        self._drain = drain
        self.drained = anyio.Event()

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take up a run that waits, unless told not to."""
        if not self._drain.exists():
            return await super().get_and_submit_flow_runs()
        if self.limiter.borrowed_tokens == 0:
            self.drained.set()
        return []


async def serve(pool: str, name: str, limit: int, drain: Path) -> None:
    """Work until drained or told to stop."""
    agent = Agent(drain, work_pool_name=pool, name=name, limit=limit, create_pool_if_not_found=False)
    async with anyio.create_task_group() as group:

        async def end_when_drained() -> None:
            await agent.drained.wait()
            group.cancel_scope.cancel()

        async def end_on_signal() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    group.cancel_scope.cancel()
                    return

        group.start_soon(end_when_drained)
        group.start_soon(end_on_signal)
        await agent.start(printer=lambda text: print(text, flush=True))


if __name__ == "__main__":
    pool, name, limit, drain = sys.argv[1:]
    anyio.run(serve, pool, name, int(limit), Path(drain))
