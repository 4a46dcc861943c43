"""Start agents here, one for each GPU, that run the points of sweeps for a Prefect server."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from pipeline.project import find_root
from sae.config import InputError


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
    parser.add_argument(
        "--ssh", action="append", default=[], metavar="USER@HOST", help="start agents there, not here; may be given again"
    )
    parser.add_argument("--ssh-options", default="", metavar="OPTIONS", help="for ssh, such as '-p 2222 -i key'")
    parser.add_argument("--setup", metavar="COMMAND", help="how the project is installed there (default: make install)")
    parser.add_argument("--folder", help="where it is put there (default: sae-agents, in the user's home)")
    parser.add_argument("--on-stdin", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, default=None, help="the project (default: this folder, or the nearest above)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    root = find_root(args.root or Path.cwd())
    os.chdir(root)
    from pipeline.agents import Fleet, slots
    from pipeline.ssh import FOLDER, SETUP, Host, RemoteAgents

    hosts = [Host(address, tuple(shlex.split(args.ssh_options))) for address in args.ssh]
    if (args.setup or args.ssh_options) and not hosts:
        raise InputError(
            "these are for machines that are taken into use", where="--setup, --ssh-options", expected="--ssh USER@HOST"
        )
    if hosts and (args.gpus or args.cpu):
        raise InputError("agents run here or there", where="--gpus, --cpu", expected="none of them beside --ssh")
    chosen = [] if hosts else slots(args.gpus, args.cpu)
    fleet = Fleet(root, args.server, chosen, control=args.control)
    if hosts:
        fleet.away = RemoteAgents(root, fleet.url, hosts, args.setup or SETUP, args.folder or FOLDER)
    return fleet.run(on_stdin=args.on_stdin)
