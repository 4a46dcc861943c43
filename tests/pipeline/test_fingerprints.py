"""What DVC can't see: the code of a user's own architecture, and the folder that training starts from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.fingerprints import FileHashes, fingerprint_architecture, fingerprint_start
from sae.config import InputError

REFERENCE = "mine.parts.model:Model"
PACKAGE = {
    "mine/__init__.py": "",
    "mine/parts/__init__.py": "from .penalties import one\n",
    "mine/parts/model.py": "import torch\nfrom sae import SAE\nfrom . import losses\nfrom ..above import two\nimport other\n",
    "mine/parts/losses.py": "def build():\n    import mine.late\n",
    "mine/parts/penalties.py": "one = 1\n",
    "mine/above.py": "two = 2\n",
    "mine/late.py": "import mine.parts.model\n",
    "other.py": "",
    "mine/unused.py": "",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace with a package of the user's own."""
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.fixture
def hashes(tmp_path: Path) -> FileHashes:
    return FileHashes(tmp_path / ".work/hashes.json")


@pytest.mark.parametrize("file", sorted(set(PACKAGE) - {"mine/unused.py"}))
def test_a_change_in_what_an_own_architecture_imports_changes_its_fingerprint(
    workspace: Path, hashes: FileHashes, file: str
) -> None:
    before = fingerprint_architecture(REFERENCE, hashes)
    assert fingerprint_architecture(REFERENCE, hashes) == before
    (workspace / file).write_text((workspace / file).read_text() + "# a change\n")
    assert fingerprint_architecture(REFERENCE, hashes) != before


def test_what_it_does_not_import_does_not_count(workspace: Path, hashes: FileHashes) -> None:
    before = fingerprint_architecture(REFERENCE, hashes)
    (workspace / "mine/unused.py").write_text("# a change\n")
    assert fingerprint_architecture(REFERENCE, hashes) == before


def test_an_installed_package_is_followed_and_the_libraries_beside_it_are_not(
    workspace: Path, hashes: FileHashes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = fingerprint_architecture(REFERENCE, hashes)
    (workspace / "other.py").write_text("# a change\n")
    assert fingerprint_architecture(REFERENCE, hashes) == before
    (workspace / "mine/above.py").write_text("# a change\n")
    assert fingerprint_architecture(REFERENCE, hashes) != before


@pytest.mark.parametrize("reference", ["mine.parts.modle:Model", "nowhere.model:Model", ":Model", ".model:Model"])
def test_an_own_architecture_that_is_not_there_is_named(workspace: Path, hashes: FileHashes, reference: str) -> None:
    with pytest.raises(InputError, match=r"sae\.architecture: no such module can be imported"):
        fingerprint_architecture(reference, hashes)


def test_code_that_is_no_python_is_named_with_its_line(workspace: Path, hashes: FileHashes) -> None:
    (workspace / "mine/above.py").write_text("one = 1\ntwo = = 2\n")
    with pytest.raises(InputError, match=r"above\.py: this is no valid Python: .* in line 2"):
        fingerprint_architecture(REFERENCE, hashes)


def test_a_shipped_architecture_needs_no_hash(hashes: FileHashes) -> None:
    assert fingerprint_architecture("topk", hashes) == {"architecture": "topk"}


@pytest.fixture
def start(workspace: Path) -> Path:
    folder = workspace / "earlier"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_change_in_what_training_starts_from_changes_its_fingerprint(start: Path, hashes: FileHashes, file: str) -> None:
    before = fingerprint_start("earlier", hashes)
    (start / file).write_bytes(b"others!")
    assert fingerprint_start("earlier", hashes) != before


def test_notes_in_the_folder_do_not_count(start: Path, hashes: FileHashes) -> None:
    before = fingerprint_start("earlier", hashes)
    (start / "README.md").write_text("A good one.")
    assert fingerprint_start("earlier", hashes) == before


def test_training_that_starts_afresh_has_no_hash(hashes: FileHashes) -> None:
    assert fingerprint_start(None, hashes) == {"start_from": None}


def test_a_folder_that_is_missing_is_named(workspace: Path, hashes: FileHashes) -> None:
    with pytest.raises(InputError, match=r"train\.start_from: there is no such folder \(found earleir"):
        fingerprint_start("earleir", hashes)


@pytest.mark.parametrize("folder", ["data/sae", "data/train/state", "earlier/../data/train/state"])
def test_training_does_not_start_from_what_it_replaces(start: Path, hashes: FileHashes, folder: str) -> None:
    Path(folder).mkdir(parents=True)
    with pytest.raises(InputError, match=r"train\.start_from: .* copy it to another place"):
        fingerprint_start(folder, hashes)
