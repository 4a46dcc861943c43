"""Stage `report`: draw what the stages before it wrote."""

from __future__ import annotations

import sys

from pipeline.report.build import build
from pipeline.report.config import ReportConfig
from pipeline.stage import StageContext, run_stage


def main() -> int:
    """Read section ``report`` and write ``data/report``."""
    return run_stage("report", _report)


def _report(context: StageContext) -> None:
    config = context.section("report", ReportConfig)
    with context.output("data/report") as out:
        build(context.root, out, config)


if __name__ == "__main__":
    sys.exit(main())
