"""The Python in the documentation runs, and what it says of the code is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sae.architectures import SHIPPED
from sae.architectures.config import SAEConfig

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [
    ("architectures.md", "my_architectures"),
    ("training.md", "my_training"),
    ("activations.md", "my_activations"),
    ("sweeps.md", "my_sweeps"),
]


def blocks(text: str) -> list[tuple[int, str]]:
    """Python blocks, each with the number of the line before it."""
    return [(text[: m.start()].count("\n") + 1, m[1]) for m in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M)]


@pytest.mark.parametrize(("page", "module"), PAGES)
def test_python_blocks_of_a_page_run_in_order(page: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for what the page saves
    mine = ModuleType(module)
    monkeypatch.setitem(sys.modules, module, mine)
    found = blocks((DOCS / page).read_text())
    assert found
    for line, code in found:
        # Lines as on the page, so that a traceback points there.
        exec(compile("\n" * line + code, str(DOCS / page), "exec", dont_inherit=True), vars(mine))


def test_table_of_architectures_names_each_with_the_keys_of_its_config() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", (DOCS / "architectures.md").read_text(), re.M)
    listed = {name: re.findall(r"`(\w+)`", keys) for name, keys in rows if name in SHIPPED}
    fields = {name: list(type(getattr(SAEConfig(), name)).model_fields) for name in SHIPPED}
    assert listed == fields


def test_names_in_the_table_of_pieces_exist() -> None:
    text = (DOCS / "architectures.md").read_text()
    for module in ("sae.core", "sae.codes", "sae.components"):
        (row,) = re.findall(rf"^\| `{re.escape(module)}` \| (.*) \|$", text, re.M)
        package = __import__(module, fromlist=["ops"])
        for name in re.findall(r"`([A-Z]\w+)", row):
            assert hasattr(package, name) or hasattr(getattr(package, "ops", None), name), name
