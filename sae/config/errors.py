"""The one family of errors. A message names what was found, where, what was expected, and the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SaeError(Exception):
    """Base of every error that this project raises on purpose.

    Args:
        message: what is wrong, in one sentence without a full stop.
        where: the field (``train.steps``) or file that it is wrong in.
        found: what stood there.
        expected: what may stand there.
        nearest: the right thing that is nearest to what was found.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        found: object = None,
        expected: object = None,
        nearest: str | None = None,
    ) -> None:
        self.message = message
        self.where = where
        self.found = found
        self.expected = expected
        self.nearest = nearest
        super().__init__(self._compose())

    def _compose(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        details = []
        if self.found is not None:
            details.append(f"found {_shorten(self.found)}")
        if self.expected is not None:
            details.append(f"expected {_shorten(self.expected)}")
        if details:
            text += f" ({', '.join(details)})"
        if self.nearest is not None:
            text += f"; did you mean {self.nearest!r}?"
        return text


class InputError(SaeError):
    """The user's input is wrong: a field, a file, a path, a command. Exit status 2, never a traceback.

    >>> print(InputError("no such stage", where="run.stage", found="trian", nearest=nearest_name("trian", ["train", "report"])))
    run.stage: no such stage (found trian); did you mean 'train'?
    """

    exit_code = 2


class Failure(SaeError):
    """Right input, but the work could not be finished: a full disk, a loss that is not finite. Exit status 1."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is spelled most like `name`, or None if none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _shorten(value: object, limit: int = 300) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
