"""Show what sweeps and interrupted runs have left behind, and remove what is named."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipeline.project import find_root

KINDS = ("clones", "work", "sweeps", "cache")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    for kind in KINDS:
        parser.add_argument(f"--{kind}", action="store_true", help=f"remove {kind}; without any option all kinds are shown")
    parser.add_argument("--root", type=Path, default=None, help="the project (default: this folder, or the nearest above)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    root = find_root(args.root or Path.cwd())
    os.chdir(root)
    from pipeline.flows import only_run_in
    from pipeline.sweeps.results import leftovers

    found = leftovers(root)
    chosen = [kind for kind in found if getattr(args, kind.name)]
    if not chosen:
        for kind in found:
            print(f"--{kind.name:<7} {kind.bytes / 1e6:>9,.1f} MB  {kind.about}")
        print("nothing is removed; name what to remove, such as --clones. Results, experiments and records stay.")
        return 0
    with only_run_in(root):
        for kind in chosen:
            before = kind.bytes
            kind.remove()
            print(f"{kind.name}: {(before - kind.bytes) / 1e6:,.1f} MB removed", flush=True)
    return 0
