"""Start agents here, one for each GPU, that run the points of sweeps for a Prefect server."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipeline.project import find_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--gpus", metavar="0,1", help="which GPUs (default: all; where there is none, the CPU)")
    parser.add_argument("--cpu", type=int, metavar="N", help="so many agents on the CPU, whatever GPUs there are")
    parser.add_argument(
        "--server", metavar="URL", help="the Prefect server; default: PREFECT_API_URL, else http://127.0.0.1:4200"
    )
    parser.add_argument(
        "--control",
        action=argparse.BooleanOptionalAction,
        help="also run the sweeps themselves here (default: where the server is)",
    )
    parser.add_argument("--root", type=Path, default=None, help="the project (default: this folder, or the nearest above)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    root = find_root(args.root or Path.cwd())
    os.chdir(root)
    from pipeline.agents import Fleet, slots

    return Fleet(root, args.server, slots(args.gpus, args.cpu), control=args.control).run()
