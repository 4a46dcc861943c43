"""Run the stages of dvc.yaml as a Prefect flow; what is up to date is left as it is."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.project import choose_stages, find_root
from sae.config import Failure, SaeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--stages", type=_names, metavar="A,B", help="only these stages (default: all)")
    parser.add_argument("--force", action="store_true", help="run them even if nothing has changed")
    parser.add_argument(
        "--server", metavar="URL", help="a running Prefect server; default: PREFECT_API_URL, else a temporary one"
    )
    parser.add_argument("--root", type=Path, default=None, help="the project (default: this folder, or the nearest above)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    run_pipeline(args.root or Path.cwd(), stages=args.stages, force=args.force, server=args.server)
    return 0


def run_pipeline(
    start: Path,
    *,
    stages: Sequence[str] | None = None,
    force: bool = False,
    server: str | None = None,
) -> None:
    """Run the flow `pipeline`, and show its stages' lines and a summary on the terminal.

    Args:
        start: the project, or a folder in it.
        stages: which to run; None runs all.
        force: run them even if nothing has changed.
        server: URL of a Prefect server; None uses PREFECT_API_URL, or else a temporary server.

    Raises:
        SaeError: bad input, or a stage failed.
    """
    root = find_root(start)
    chosen = choose_stages(root, stages)
    os.chdir(root)  # where the flow, like one that a worker runs, looks for the project
    sys.path.insert(0, str(root))  # where the stages find a user's own architecture
    from pipeline.params import load_params
    from pipeline.server import prefect_server

    load_params(root)
    asked_for_server = bool(server or os.environ.get("PREFECT_API_URL"))
    with prefect_server(root, server):
        from pipeline.flows import pipeline  # imports Prefect, so not before its settings are made
        from pipeline.terminal import Terminal, use_terminal

        use_terminal(Terminal(width=max(map(len, chosen)), show_link=asked_for_server))
        state = pipeline(stages=None if stages is None else chosen, force=force, return_state=True)
        if not state.is_completed():
            error = state.result(raise_on_failure=False)
            raise error if isinstance(error, SaeError) else Failure(state.message or "the run did not complete")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
