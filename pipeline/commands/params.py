"""Print the reference of params.yaml: every key, with type, default and meaning."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the reference."""
    from pipeline.reference import reference

    print(reference(), end="")
    return 0
