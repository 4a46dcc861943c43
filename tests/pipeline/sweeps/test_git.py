"""Snapshots hold the work tree as it lies there and leave all that is the user's as it was; git itself is the witness."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.sweeps.git import experiment_ref, git, make_clone, record_experiment, snapshot
from sae.config import Failure

REF = "refs/sae/sweeps/3fa9c1"
AUTHOR = ["-c", "user.name=A User", "-c", "user.email=user@example.org"]
ODD_NAMES = [
    "with space.txt",
    "new\nline.txt",
    "tab\t.txt",
    "quote'\".txt",
    "-dash.txt",
    "é漢.txt",
    "a:b*?[c].txt",
    " .txt",
    "deep/er/ a/b.txt",
]


@pytest.fixture(autouse=True)
def _no_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


def own(folder: Path, *arguments: str) -> str:
    """What a user's git prints; it takes no locks that are optional, so that looking changes nothing."""
    return subprocess.run(["git", "--no-optional-locks", *arguments], cwd=folder, capture_output=True, check=True).stdout.decode(
        errors="surrogateescape"
    )


def commit(folder: Path, message: str = "A commit") -> str:
    own(folder, "add", "--all")
    own(folder, *AUTHOR, "commit", "--quiet", "--allow-empty", "--message", message)
    return own(folder, "rev-parse", "HEAD").strip()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def make_repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    own(folder, "init", "--quiet", "--initial-branch", "main")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One in which everything is going on at once."""
    folder = make_repository(tmp_path / "a repository")
    names = (
        "kept",
        "modified",
        "staged",
        "staged twice",
        "deleted",
        "removed",
        "moved",
        "unstaged",
        "run.sh",
        "turns into a folder",
    )
    write(folder, {name: f"{name}, first" for name in names} | {"sub/kept": "kept", ".gitignore": "*.log\n/ignored/\n"})
    commit(folder)
    own(folder, "branch", "another")
    own(folder, "tag", "a-tag")
    write(folder, {"kept": "stashed"})
    own(folder, *AUTHOR, "stash", "--quiet")
    write(folder, {"modified": "modified, second", "staged": "staged, second", "staged twice": "2", "unstaged": "for a while"})
    own(folder, "add", "staged", "staged twice", "unstaged")
    write(folder, {"staged twice": "staged twice, third", "unstaged": "unstaged, first"})
    (folder / "deleted").unlink()
    own(folder, "rm", "--quiet", "removed")
    own(folder, "mv", "moved", "moved away")
    (folder / "run.sh").chmod(0o755)
    (folder / "turns into a folder").unlink()
    write(folder, {"turns into a folder/file": "in it", "untracked/new": "new", "empty": "", "forced.log": "tracked"})
    own(folder, "add", "--force", "forced.log")
    (folder / "binary").write_bytes(bytes(range(256)) * 4)
    (folder / "link").symlink_to("untracked/new")
    (folder / "broken").symlink_to("nowhere")
    write(folder, {name: f"odd {index}" for index, name in enumerate(ODD_NAMES)})
    write(folder, {"some.log": "ignored", "ignored/deep/file": "ignored", "sub/more.log": "ignored"})
    return folder


IGNORED = {"some.log", "ignored/deep/file", "sub/more.log"}


def files_of(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in folder.rglob("*")
        if ".git" not in path.relative_to(folder).parts and (path.is_symlink() or path.is_file())
    )


def lying_there(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Mode and content of the files of a work tree."""
    found = {}
    for path in files_of(folder):
        mode = (
            "120000" if path.is_symlink() else "100755" if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else "100644"
        )
        content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        found[str(path.relative_to(folder))] = (mode, content)
    return found


def in_commit(folder: Path, name: str) -> dict[str, tuple[str, bytes]]:
    """Mode and content of the files of a commit, as git has them."""
    entries = [entry.split("\t", 1) for entry in own(folder, "ls-tree", "-r", "-z", "--full-tree", name).split("\0") if entry]
    found = {}
    for about, path in entries:
        mode, kind, blob = about.split()
        assert kind == "blob"
        found[path] = (
            mode,
            subprocess.run(["git", "cat-file", "blob", blob], cwd=folder, capture_output=True, check=True).stdout,
        )
    return found


def everything(folder: Path) -> dict[str, object]:
    """All that is the user's: files with their times, index, HEAD, configuration, refs, stash and their logs."""
    inside = Path(own(folder, "rev-parse", "--absolute-git-dir").strip())
    refs = [line for line in own(folder, "for-each-ref").splitlines() if "\trefs/sae/" not in line and "\trefs/exps/" not in line]
    return {
        "files": {str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.lstat().st_ino) for path in files_of(folder)},
        "content": lying_there(folder),
        "git": {name: (inside / name).read_bytes() for name in ("index", "HEAD", "config") if (inside / name).exists()},
        "logs": {str(path): path.read_bytes() for path in (inside / "logs").rglob("*") if path.is_file()},
        "loose": sorted(path.name for path in inside.iterdir() if path.name not in ("refs", "objects")),
        "refs": refs,
        "stash": own(folder, "stash", "list"),
        "status": own(folder, "status", "--porcelain=v2", "-z", "--ignored", "--branch"),
    }


def test_a_snapshot_holds_the_work_tree_without_what_git_ignores(repository: Path) -> None:
    commit_id, _ = snapshot(repository, REF)
    expected = {name: entry for name, entry in lying_there(repository).items() if name not in IGNORED}
    assert set(ODD_NAMES) < set(expected)
    assert in_commit(repository, commit_id) == expected


def test_all_that_is_the_users_stays_as_it_was(repository: Path) -> None:
    before = everything(repository)
    snapshot(repository, REF)
    assert everything(repository) == before


def test_a_snapshot_stands_on_head_and_is_kept_under_its_ref(repository: Path) -> None:
    head = own(repository, "rev-parse", "HEAD").strip()
    commit_id, base = snapshot(repository, REF)
    assert base == head
    assert own(repository, "rev-parse", REF, f"{REF}^@").split() == [commit_id, head]
    own(repository, "gc", "--quiet", "--prune=now")
    assert own(repository, "cat-file", "-t", commit_id).strip() == "commit"


def test_the_same_work_tree_is_the_same_commit(repository: Path) -> None:
    first, _ = snapshot(repository, REF)
    assert snapshot(repository, "refs/sae/sweeps/other")[0] == first
    write(repository, {"kept": "another"})
    assert snapshot(repository, REF)[0] != first


def test_a_user_whom_git_does_not_know_is_none_needed(repository: Path) -> None:
    refused = subprocess.run(
        ["git", "commit", "--allow-empty", "-m", "x"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    commit_id, _ = snapshot(repository, REF)
    about = own(repository, "show", "--no-patch", "--format=%an <%ae> %cn <%ce>", commit_id)
    assert about.strip() == "sae-pipeline <sae-pipeline@localhost> sae-pipeline <sae-pipeline@localhost>"


def test_a_repository_without_a_commit_is_enough(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "new")
    write(folder, {"a": "1", "b/c": "2"})
    before = everything(folder)
    commit_id, base = snapshot(folder, REF)
    assert base == commit_id
    assert own(folder, "rev-list", "--count", commit_id).strip() == "1"
    assert {name: content for name, (_, content) in in_commit(folder, commit_id).items()} == {"a": b"1", "b/c": b"2"}
    assert everything(folder) == before
    assert "index" not in everything(folder)["git"]  # type: ignore[operator]


def test_a_project_in_a_subfolder_is_in_a_snapshot_of_the_whole_repository(repository: Path) -> None:
    write(repository, {"sub/new": "new"})
    before = everything(repository)
    commit_id, _ = snapshot(repository / "sub", REF)
    assert in_commit(repository, commit_id) == {n: entry for n, entry in lying_there(repository).items() if n not in IGNORED}
    assert everything(repository) == before


def test_a_linked_worktree_has_a_snapshot_of_its_own(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "worktree"
    own(repository, "worktree", "add", "--quiet", str(other), "another")
    write(other, {"only here": "x"})
    own(other, "add", "only here")
    write(other, {"kept": "changed here"})
    before = everything(repository), everything(other)
    commit_id, base = snapshot(other, REF)
    assert base == own(other, "rev-parse", "another").strip()
    assert in_commit(other, commit_id) == {n: entry for n, entry in lying_there(other).items() if n != ".git"}
    assert (everything(repository), everything(other)) == before


def test_a_conflict_that_is_not_resolved_is_in_a_snapshot_as_it_lies_there(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "conflict")
    write(folder, {"a": "1"})
    commit(folder)
    own(folder, "checkout", "--quiet", "-b", "other")
    write(folder, {"a": "2"})
    commit(folder)
    own(folder, "checkout", "--quiet", "main")
    write(folder, {"a": "3"})
    commit(folder)
    merged = subprocess.run(["git", *AUTHOR, "merge", "--quiet", "other"], cwd=folder, capture_output=True, check=False)
    assert merged.returncode == 1
    before = everything(folder)
    commit_id, _ = snapshot(folder, REF)
    assert in_commit(folder, commit_id) == lying_there(folder)
    assert everything(folder) == before


def test_a_change_within_the_second_in_which_the_index_was_written_is_seen(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "quick")
    for _ in range(3):
        time.sleep(1 - time.time() % 1)
        write(folder, {"params.yaml": "16"})
        own(folder, "add", "params.yaml")
        write(folder, {"params.yaml": "32"})
        if len({int((folder / name).stat().st_mtime) for name in ("params.yaml", ".git/index")}) == 1:
            break
    time.sleep(1.01 - time.time() % 1)
    assert in_commit(folder, snapshot(folder, REF)[0])["params.yaml"][1] == b"32"


def test_hooks_signatures_and_the_environment_of_another_repository_are_left_alone(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pre-commit", "post-index-change", "reference-transaction", "post-checkout", "pre-push"):
        hook = repository / ".git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho {name} >> '{tmp_path}/hooks-ran'\nexit 1\n")
        hook.chmod(0o755)
    own(repository, "config", "commit.gpgsign", "true")
    own(repository, "config", "gpg.program", "/does/not/exist")
    other = make_repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    commit_id, base = snapshot(repository, REF)
    make_clone(repository, tmp_path / "clone", commit_id)
    record_experiment(tmp_path / "clone", repository, base, "a-name")
    for name in ("GIT_DIR", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name)
    assert not (tmp_path / "hooks-ran").exists()
    assert set(in_commit(repository, commit_id)) == set(lying_there(repository)) - IGNORED
    assert own(other, "for-each-ref") == ""


def test_a_clone_stands_at_the_commit_with_every_file(repository: Path, tmp_path: Path) -> None:
    commit_id, _ = snapshot(repository, REF)
    clone = tmp_path / "clones/a clone"
    make_clone(repository, clone, commit_id)
    assert lying_there(clone) == in_commit(repository, commit_id)
    assert own(clone, "rev-parse", "HEAD").strip() == commit_id
    assert own(clone, "status", "--porcelain") == ""
    assert [path for path in (clone / ".git/objects").rglob("*") if path.is_file()] == [clone / ".git/objects/info/alternates"]


def test_a_clone_that_is_there_is_brought_to_another_commit_and_keeps_what_git_ignores(repository: Path, tmp_path: Path) -> None:
    first, _ = snapshot(repository, REF)
    clone = tmp_path / "clone"
    make_clone(repository, clone, first)
    write(clone, {"kept": "changed", "left over/file": "x", "work.log": "kept", "ignored/work": "kept"})
    (clone / "modified").unlink()
    write(repository, {"kept": "second", "untracked/new": "second"})
    second, _ = snapshot(repository, REF)
    before = everything(repository)
    make_clone(repository, clone, second)
    kept = {"work.log": ("100644", b"kept"), "ignored/work": ("100644", b"kept")}
    assert lying_there(clone) == in_commit(repository, second) | kept
    assert everything(repository) == before


def test_an_experiment_is_the_clones_tree_on_the_base_under_the_ref_that_dvc_knows(repository: Path, tmp_path: Path) -> None:
    commit_id, base = snapshot(repository, REF)
    clone = tmp_path / "clone"
    make_clone(repository, clone, commit_id)
    write(clone, {"params.yaml": "16", "new/file\n": "x", "data.log": "ignored"})
    before = everything(repository)
    made = record_experiment(clone, repository, base, "l0-16-abc123")
    assert own(repository, "rev-parse", f"refs/exps/{base[:2]}/{base[2:]}/l0-16-abc123", f"{made}^@").split() == [made, base]
    assert experiment_ref(base, "a") == f"refs/exps/{base[:2]}/{base[2:]}/a"
    expected = in_commit(repository, commit_id) | {"params.yaml": ("100644", b"16"), "new/file\n": ("100644", b"x")}
    assert in_commit(repository, made) == expected
    assert everything(repository) == before
    write(clone, {"params.yaml": "32"})
    again = record_experiment(clone, repository, base, "l0-16-abc123")
    assert own(repository, "rev-parse", experiment_ref(base, "l0-16-abc123")).strip() == again != made


def test_dvc_lists_an_experiment(repository: Path, tmp_path: Path) -> None:
    from dvc.repo import Repo

    Repo.init(str(repository)).close()
    _, base = snapshot(repository, REF)
    base = commit(repository)
    make_clone(repository, tmp_path / "clone", base)
    write(tmp_path / "clone", {"params.yaml": "train: {steps: 10}\n"})
    made = record_experiment(tmp_path / "clone", repository, base, "steps-10-abc123")
    with Repo(str(repository)) as repo:
        assert repo.experiments.ls() == {base: [("steps-10-abc123", made)]}


def test_what_git_says_against_it_is_the_failure(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(Failure, match=r"git rev-parse failed: .*not a git repository"):
        snapshot(tmp_path, REF)
    with pytest.raises(Failure, match=r"git update-ref failed: .*bad name|git update-ref failed: .*refs/.."):
        snapshot(repository, "refs/../x")
    assert git(tmp_path, "rev-parse", "HEAD", check=False) == ""
