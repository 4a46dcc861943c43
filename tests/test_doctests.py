"""The examples in docstrings run, and the names that a user meets first have one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import sae

MODULES = ["sae", *(module.name for module in pkgutil.walk_packages(sae.__path__, "sae."))]
WITH_EXAMPLE = ["Architecture", "InputError", "SweepableConfig", "ablate", "splice", "steer"]  # of the names in `sae`


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_names_that_a_user_meets_have_an_example(name: str) -> None:
    assert ">>>" in (inspect.getdoc(getattr(sae, name)) or "")
