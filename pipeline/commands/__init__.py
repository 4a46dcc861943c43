"""The subcommands of `python -m pipeline`, one module each: its name is the command's name.

A module has a docstring, whose first line is the help; `add_arguments(parser)`; and `run(args) -> int`, which returns the
exit status. It is imported for every command, so it imports what is heavy only in `run`.
"""
