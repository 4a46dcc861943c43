"""Where training curves go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae.training.trainer import LogCurve


@contextmanager
def curve_loggers(names: Sequence[str], directory: Path) -> Iterator[LogCurve]:
    """All chosen loggers as one function of step and figures.

    Args:
        names: as in `run.log`.
        directory: for files; it exists afterwards, whatever was chosen.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if "dvclive" not in names:
        yield lambda step, figures: None
        return
    live = _local_live(directory)

    def log(step: int, figures: Mapping[str, float]) -> None:
        live.step = step
        for name, value in figures.items():
            live.log_metric(name, value)
        live.make_summary()

    try:
        yield log
    finally:
        live.end()


def _local_live(directory: Path) -> Any:
    """DVCLive that writes its files and lets git, DVC and Studio be.

    Left to itself it looks for the commit that it runs on, which fails in a repository without one, edits the
    workspace's dvc.yaml, and reports to Studio where a token lies about.
    """
    from dvclive import Live

    class LocalLive(Live):  # type: ignore[misc]  # dvclive is not typed here
        def _init_dvc(self) -> None:
            self._dvc_file = "dvc.yaml"
            self._save_dvc_exp = False

        def _init_studio(self) -> None:
            self._studio_events_to_skip |= {"start", "data", "done"}

    return LocalLive(str(directory), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False)
