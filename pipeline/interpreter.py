"""Is this the interpreter that the project is installed for? Asked before any import that could fail.

Written for every Python from 3.6 on and the standard library alone: the wrong interpreter has to get far enough to say
that it is the wrong one.
"""

import os
import sys
from importlib.util import find_spec

MINIMUM = (3, 11)

# What pyproject.toml asks for, by import name (here the same as the distributions' names). Looked for, not imported.
NEEDED = (
    "torch",
    "einops",
    "pydantic",
    "safetensors",
    "numpy",
    "scipy",
    "schedulefree",
    "pyarrow",
    "psutil",
    "datasets",
    "transformers",
    "tokenizers",
    "ruamel.yaml",
    "tqdm",
    "matplotlib",
    "dvc",
    "dvclive",
    "prefect",
    "fastapi",
)

# Set for every stage by `python -m pipeline run`: the interpreter that started the run.
STARTED_BY = "SAE_INTERPRETER"

ADVICE = "activate the project's environment (`source .venv/bin/activate`), or use `make run`"


def check() -> None:
    """Leave with exit status 2 and one message if a command of ours can't run in this interpreter."""
    problem = find_problem()
    if problem:
        sys.stderr.write(f"error: {problem}; {ADVICE}\n")
        sys.exit(2)


def find_problem() -> str:
    """What is wrong with this interpreter, in one sentence that names it; empty if nothing is."""
    here = f"{sys.executable} (Python {sys.version_info[0]}.{sys.version_info[1]})"
    if sys.version_info < MINIMUM:
        return f"{here} is too old, this project needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer"
    expected = os.environ.get(STARTED_BY)
    if expected and not same_interpreter(expected, sys.executable):
        return f"this stage runs under {here}, but the run was started under {expected}"
    missing = [name for name in NEEDED if not is_installed(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        return f"{_listed(missing)} {verb} not installed for {here}"
    return ""


def same_interpreter(one: str, other: str) -> bool:
    """Whether two paths are one interpreter of one environment.

    Not by `os.path.realpath` alone: the interpreters of two virtual environments are links to the same file.
    """
    return os.path.dirname(one) == os.path.dirname(other) and os.path.realpath(one) == os.path.realpath(other)


def is_installed(name: str) -> bool:
    """Whether `name` can be found, without importing it (a dotted name imports its parent, which is empty)."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def _listed(names: "list[str]", limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
