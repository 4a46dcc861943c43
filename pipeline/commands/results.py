"""Show the results of a sweep as a table: sorted, filtered, with the fronts marked; or write it as Parquet."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipeline.project import find_root
from sae.config import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="its id (default: the last one that was run)")
    parser.add_argument("--all", action="store_true", help="the points of all sweeps")
    parser.add_argument("--sort", metavar="COLUMN", help="by a column or any metric")
    parser.add_argument("--descending", action="store_true", help="the largest first")
    parser.add_argument("--where", action="append", default=[], metavar="CONDITION", help="such as 'L0<32' or architecture=topk")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="write the table, with all metrics, to a file")
    parser.add_argument("--root", type=Path, default=None, help="the project (default: this folder, or the nearest above)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    target = None if args.parquet is None else args.parquet.absolute()
    root = find_root(args.root or Path.cwd())
    os.chdir(root)
    from pipeline.sweeps.results import all_points, last_sweep
    from pipeline.sweeps.table import table_of

    if args.descending and args.sort is None:
        raise InputError("name a column to sort by", where="--descending", expected="--sort COLUMN")
    if args.sweep is not None and args.all:
        raise InputError("name a sweep, or take all", where="--all", found=args.sweep)
    table = table_of(root, all_points(root) if args.all else last_sweep(root, args.sweep).points)
    for condition in args.where:
        table = table.where(condition)
    if args.sort is not None:
        table = table.sorted_by(args.sort, descending=args.descending)
    print(table.text())
    if target is not None:
        table.save(target)
        print(f"\n{len(table.rows)} rows → {target}")
    return 0
