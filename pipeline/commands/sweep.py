"""Run the sweep that params.yaml describes; points that are done are not done again."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pipeline.project import find_root
from sae.config import Failure, InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="points at a time, on this machine (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="show what would run, and run nothing")
    parser.add_argument("--only", type=_names, metavar="A,B", help="only these points, by number or name")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many of the points that are to do")
    parser.add_argument("--root", type=Path, default=None, help="the project (default: this folder, or the nearest above)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    root = find_root(args.root or Path.cwd())
    os.chdir(root)  # where paths in params.yaml begin
    sys.path.insert(0, str(root))  # where a user's own architecture is
    for name, value in (("--jobs", args.jobs), ("--limit", args.limit)):
        if value is not None and value < 1:
            raise InputError("this is no number of points", where=name, found=value, expected="1 or more")
    from pipeline.sweeps.choice import choose_points
    from pipeline.sweeps.local import run_sweep, show_plan
    from pipeline.sweeps.plan import make_plan

    plan = make_plan(root)
    chosen = choose_points(plan, args.only)
    todo = show_plan(root, plan, chosen, jobs=args.jobs, limit=args.limit)
    if args.dry_run:
        return 0
    failed = run_sweep(root, plan, chosen, todo, jobs=args.jobs)
    if failed:
        raise Failure(f"{len(failed)} of {len(todo)} points failed: {', '.join(failed)}; the same command tries them again")
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
