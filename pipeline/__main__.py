"""The command line: `python -m pipeline COMMAND …`. Each command is a module of `pipeline.commands`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shlex
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from pipeline import commands
from pipeline.exits import exit_status
from sae.config import InputError, nearest_name

PROGRAM = "python -m pipeline"


class Parser(argparse.ArgumentParser):
    """argparse with our errors: one message that names the nearest right thing, and exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    again = shlex.join(["python", "-m", "pipeline", *arguments])
    return exit_status(
        lambda: _dispatch(arguments),
        on_interrupt=f"interrupted. What is finished is kept, and what is not goes on from where it was: {again}",
    )


def _dispatch(arguments: list[str]) -> int:
    modules = {
        info.name: importlib.import_module(f"{commands.__name__}.{info.name}") for info in pkgutil.iter_modules(commands.__path__)
    }
    parser, parsers = _build(modules)
    names = ", ".join(modules)
    if not arguments:
        raise InputError(f"name a command: {names}; see {PROGRAM} --help")
    command = arguments[0]
    if not command.startswith("-") and command not in modules:
        raise InputError(
            "no such command", where=PROGRAM, found=command, expected=f"one of {names}", nearest=nearest_name(command, modules)
        )
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parsers[command]._actions for option in action.option_strings]
        nearest = nearest_name(unknown[0].partition("=")[0], known)
        raise InputError("unknown argument", where=f"{PROGRAM} {command}", found=unknown[0], nearest=nearest)
    return int(modules[command].run(args))


def _build(modules: dict[str, ModuleType]) -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog=PROGRAM, description="Train sparse autoencoders: the stages of dvc.yaml, and sweeps over them.", allow_abbrev=False
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    parsers = {}
    for name, module in modules.items():
        help_line = (module.__doc__ or "").partition("\n")[0]
        parsers[name] = subparsers.add_parser(name, help=help_line, description=help_line, allow_abbrev=False)
        module.add_arguments(parsers[name])
    return parser, parsers


if __name__ == "__main__":
    sys.exit(main())
