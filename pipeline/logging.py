"""Where training curves go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

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
    from dvclive import Live

    # dvcyaml and save_dvc_exp would have DVCLive edit the workspace's dvc.yaml and git from inside a stage.
    live = Live(str(directory), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False)

    def log(step: int, figures: Mapping[str, float]) -> None:
        live.step = step
        for name, value in figures.items():
            live.log_metric(name, value)
        live.make_summary()

    try:
        yield log
    finally:
        live.end()
