"""The orchestration: DVC stages, Prefect flows, the command line. Built on `sae`, which knows nothing of it."""

import sys

# `python -m pipeline…` imports this package before anything else of ours, and while it does, the interpreter's own
# name for the program is "-m". That is the moment to say that it is the wrong interpreter: the next import would fail
# with a traceback about a package. This file and interpreter.py are therefore written for any Python 3.
if sys.argv[:1] == ["-m"]:
    from pipeline import interpreter

    interpreter.check()
