"""Stage `report`: draw what the stages before it wrote."""

from __future__ import annotations

from pipeline.report.build import build
from pipeline.report.config import ReportConfig
from pipeline.stage import StageContext, run_stage


def body(ctx: StageContext) -> str:
    config = ctx.section("report", ReportConfig)
    with ctx.output("data/report") as out:
        build(ctx.root, out, config)
        size = sum(file.stat().st_size for file in out.iterdir())
    return f"{size / 1e6:.1f} MB; open data/report/index.html"


if __name__ == "__main__":
    raise SystemExit(run_stage("report", body))
