"""The folder of a point: its parameters, the user's cache, models and texts; nothing of the user's is written to or removed."""

from __future__ import annotations

import glob
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from dvc.config import Config
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sections import read_yaml
from pipeline.sweeps.git import snapshot
from pipeline.sweeps.keys import with_values
from pipeline.sweeps.workspace import Workspace, cache_dir, write_values
from tests.pipeline.workspaces import ROOT, run

REF = "refs/sae/sweeps/test"
PARAMS = (ROOT / "params.yaml").read_text()


@pytest.fixture(autouse=True)
def _no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


def make_project(folder: Path, repository: Path | None = None) -> Path:
    """What a workspace needs of a project: settings, and ignored data beside the code."""
    (folder / ".dvc").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, folder / name)
    with (folder / ".gitignore").open("a") as file:
        file.write("/texts/\n/kept\n")
    run(["git", "init", "--quiet"], repository or folder)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "a project")


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")


def made(project: Path, values: dict[str, Any], name: str = "point") -> Workspace:
    workspace = Workspace(project, name)
    workspace.make(snapshot(project, REF)[0], values)
    return workspace


def untracked(workspace: Workspace) -> list[str]:
    done = run(["git", "status", "--porcelain", "--untracked-files=all"], workspace.clone)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_only_the_lines_of_the_values_change_and_their_comments_stay(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS)
    write_values(file, {"train.l0_target": 32, "sae.architecture": "gated", "tokens.train": 500_000})
    changed = [(old, new) for old, new in zip(PARAMS.splitlines(), file.read_text().splitlines(), strict=True) if old != new]
    assert [old.split(":")[0].strip() for old, _ in changed] == ["train", "architecture", "l0_target"]
    for old, new in changed:
        assert old.partition("#")[2] == new.partition("#")[2]
    assert read_yaml(file) == with_values(
        read_yaml(ROOT / "params.yaml"), {"train.l0_target": 32, "sae.architecture": "gated", "tokens.train": 500_000}
    )


def test_keys_that_were_not_there_come_into_their_section(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS)
    values = {
        "train.optimizer.name": "sgd",
        "train.coefficients.l1": 0.5,
        "sae.topk.anneal.stop": 2,
        "sae.gated": {"a": [1, {"b": None}]},
    }
    write_values(file, values | {"sae.expansion.odd": 1})
    params = read_yaml(file)
    assert params["train"]["optimizer"] == {"name": "sgd"}
    assert params["train"]["coefficients"] == {"l1": 0.5}
    assert params["sae"]["topk"] == {"anneal": {"start": 1.0, "stop": 2}}
    assert params["sae"]["gated"] == {"a": [1, {"b": None}]}
    assert params["sae"]["expansion"] == {"odd": 1}
    assert file.read_text().count("#") == PARAMS.count("#")


words = st.text("abcé_ :'\"#{[-,&*!|>%@0.~\n", max_size=8) | st.sampled_from(
    ["null", "yes", "1e5", "0x10", "1_000", ".inf", "- a", "2024-01-01"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=5)
paths = st.lists(st.sampled_from(["train", "sae", "topk", "lr", "anneal", "new"]), min_size=2, max_size=4).map(".".join)


@given(st.dictionaries(paths, plain, max_size=4))
def test_what_is_written_is_read_as_it_was_planned_also_by_dvc(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("written") / "params.yaml"
    file.write_text(PARAMS)
    write_values(file, values)
    expected = with_values(read_yaml(ROOT / "params.yaml"), values)
    assert read_yaml(file) == expected
    assert load_yaml(str(file)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a: {inner: &shared {x: 1, y: 2}}\nb: {inner: *shared}\n",
        "a: &base\n  inner: {x: 1, y: 2}  # of both\nb:\n  <<: *base\n  z: 3\n",
        "a: &all {inner: &part {x: 1}}\nb: *all\nc: *part\n",
    ],
)
@pytest.mark.parametrize("path", ["a.inner.x", "b.inner.x", "b.inner.new"])
def test_a_value_in_a_part_that_sections_share_changes_one_of_them(tmp_path: Path, text: str, path: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    before = read_yaml(file)
    write_values(file, {path: 5})
    assert read_yaml(file) == with_values(before, {path: 5})


def test_a_workspace_is_the_snapshot_with_the_points_parameters(project: Path) -> None:
    write(project, "own.py", "data/tokens/made")
    before = (project / "params.yaml").read_bytes()
    workspace = made(project, {"train.lr": 0.5})
    assert workspace.clone == project / ".runs/clones/point"
    assert (workspace.root / "own.py").read_text() == "text of own.py"
    assert read_yaml(workspace.root / "params.yaml") == with_values(read_yaml(project / "params.yaml"), {"train.lr": 0.5})
    assert (project / "params.yaml").read_bytes() == before
    assert not (workspace.root / "data").exists()
    assert untracked(workspace) == [" M params.yaml"]


def test_a_second_use_finds_unfinished_work_and_fresh_parameters(project: Path) -> None:
    workspace = made(project, {"train.lr": 0.5, "train.coefficients.l1": 1.0})
    write(workspace.root, ".work/train/key/checkpoint", "data/tokens/part", "left over")
    write(project, "own.py")
    again = made(project, {"train.lr": 0.25})
    assert again.root == workspace.root
    assert (again.root / ".work/train/key/checkpoint").exists()
    assert (again.root / "data/tokens/part").exists()
    assert (again.root / "own.py").exists()
    assert not (again.root / "left over").exists()
    assert read_yaml(again.root / "params.yaml") == with_values(read_yaml(project / "params.yaml"), {"train.lr": 0.25})


def test_hashes_of_files_come_along_once(project: Path) -> None:
    write(project, ".work/hashes.json")
    workspace = made(project, {})
    assert (workspace.root / ".work/hashes.json").read_text() == "text of .work/hashes.json"
    (workspace.root / ".work/hashes.json").write_text("its own")
    made(project, {})
    assert (workspace.root / ".work/hashes.json").read_text() == "its own"


@pytest.mark.parametrize("settings", ["", "[cache]\n    dir = ../../shared cache\n", "[cache]\n    dir = {tmp}/elsewhere\n"])
def test_dvc_has_the_users_cache_there(project: Path, tmp_path: Path, settings: str) -> None:
    (project / ".dvc/config.local").write_text(settings.format(tmp=tmp_path))
    workspace = made(project, {})
    with Repo(str(project)) as home, Repo(str(workspace.root)) as there:
        assert there.root_dir == str(workspace.root)
        assert there.cache.local.path == home.cache.local.path
        assert Path(there.cache.local.path).is_relative_to(cache_dir(project))
        assert there.site_cache_dir != home.site_cache_dir
        assert Path(there.site_cache_dir).is_relative_to(workspace.root / ".dvc/tmp")
    assert untracked(workspace) == []


def test_dvc_has_the_users_remotes_and_local_settings_there(project: Path) -> None:
    with (project / ".dvc/config").open("a") as file:
        file.write("['remote \"near\"']\n    url = ../../a storage\n['remote \"far\"']\n    url = s3://bucket/x%20y\n")
    (project / ".dvc/config.local").write_text("['remote \"far\"']\n    access_key_id = secret%\n[core]\n    remote = near\n")
    workspace = made(project, {})
    home, there = (Config(dvc_dir=str(root / ".dvc")) for root in (project, workspace.root))
    assert there["remote"] == home["remote"]
    assert there["remote"]["far"]["access_key_id"] == "secret%"
    assert there["core"]["remote"] == "near"
    assert there["cache"]["type"] == home["cache"]["type"]
    assert untracked(workspace) == []


def test_models_and_texts_that_git_ignores_are_linked_and_others_are_not(project: Path) -> None:
    write(
        project, "data/gemma/config.json", "texts/a/1.txt", "texts/2.txt", "kept/run/state.json", "tracked/3.txt", "data/other/x"
    )
    values = {
        "subject.model": "data/gemma",
        "corpus.files.paths": ["texts/**/*.txt", "tracked/*.txt"],
        "corpus.huggingface.dataset": "Skylion007/openwebtext",
        "train.start_from": "kept/run",
    }
    workspace = made(project, values)
    for name in ("data/gemma/config.json", "texts/a/1.txt", "texts/2.txt", "kept/run/state.json", "tracked/3.txt"):
        assert (workspace.root / name).read_text() == f"text of {name}"
    assert (workspace.root / "data/gemma").resolve() == project / "data/gemma"
    assert not (workspace.root / "tracked").is_symlink()
    assert not (workspace.root / "data/other").exists()
    assert untracked(workspace) == [" M params.yaml"]
    made(project, values)
    assert (workspace.root / "texts/2.txt").exists()


@pytest.mark.parametrize(
    "pattern", ["texts/*/part.txt", "texts/**/*.txt", "data/*.txt", "data/**/*.txt", "half/*.txt", "[dt]*/*.txt", "*.log"]
)
def test_a_glob_finds_the_same_files_there_as_at_home(project: Path, pattern: str) -> None:
    write(
        project,
        "texts/1/part.txt",
        "texts/2/part.txt",
        "texts/2/deep/x.txt",
        "data/a.txt",
        "half/tracked.txt",
        "half/ignored [1] #2.txt",
        "a.log",
    )
    (project / "half/.gitignore").write_text("ignored*\n")
    with (project / ".gitignore").open("a") as file:
        file.write("*.log\n")
    workspace = made(project, {"corpus.files.paths": [pattern]})
    found = glob.glob(pattern, root_dir=workspace.root, recursive=True)
    assert found
    assert sorted(found) == sorted(glob.glob(pattern, root_dir=project, recursive=True))
    assert untracked(workspace) == [" M params.yaml"]


def test_a_folder_that_stages_write_into_is_no_link(project: Path) -> None:
    write(project, "data/gemma/config.json", "data/mine.txt", "data/tokens/made")
    workspace = made(project, {"subject.model": "data/gemma", "corpus.files.paths": ["data/*.txt"]})
    assert (workspace.root / "data/gemma/config.json").exists()
    (workspace.root / "data/tokens").mkdir(parents=True)
    write(workspace.root, "data/tokens/other")
    assert [path.name for path in (project / "data/tokens").iterdir()] == ["made"]


def test_paths_outside_the_project_are_found_from_there(project: Path, tmp_path: Path) -> None:
    write(tmp_path, "models/config.json", "far/1.txt")
    values = {"subject.model": "../models", "corpus.files.paths": [f"{tmp_path}/far/*.txt"]}
    for name in ("one", "other"):
        workspace = made(project, values, name)
        assert (workspace.root / "../models/config.json").read_text() == "text of models/config.json"
        assert untracked(workspace) == [" M params.yaml"]


def test_a_project_in_a_subfolder_is_at_the_same_place_of_the_clone(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    project = make_project(repository / "deep/project", repository)
    write(repository, "beside.txt", "deep/models/config.json")
    write(project, "data/gemma/config.json", "texts/1.txt")
    values = {"subject.model": "data/gemma", "corpus.files.paths": ["texts/*.txt"], "train.start_from": "../models"}
    workspace = made(project, values)
    assert workspace.root == project / ".runs/clones/point/deep/project"
    assert (workspace.clone / "beside.txt").exists()
    assert (workspace.root / "texts/1.txt").read_text() == "text of texts/1.txt"
    assert (workspace.root / "data/gemma/config.json").exists()
    assert not (workspace.root / "../models").is_symlink()
    assert read_yaml(workspace.root / "params.yaml")["train"]["start_from"] == "../models"
    assert untracked(workspace) == [" M deep/project/params.yaml"]


def test_removing_takes_read_only_folders_and_leaves_what_links_lead_to(project: Path) -> None:
    write(project, "data/gemma/config.json")
    (project / "data/gemma").chmod(0o555)
    workspace = made(project, {"subject.model": "data/gemma"})
    write(workspace.root, "data/tokens/deep/file", ".dvc/tmp/x")
    (workspace.root / "data/tokens/deep/file").chmod(0o444)
    for name in ("data/tokens/deep", "data/tokens"):
        (workspace.root / name).chmod(0o555)
    workspace.remove()
    assert not workspace.clone.exists()
    assert (project / "data/gemma/config.json").read_text() == "text of data/gemma/config.json"
    assert stat.S_IMODE((project / "data/gemma").stat().st_mode) == 0o555
    workspace.remove()
