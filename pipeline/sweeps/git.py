"""Git from outside: snapshots of a work tree and experiments, with the user's tree, index, HEAD, branches and stash untouched.

A snapshot is made with an index of its own. Commits carry our own identity and a fixed date, so that git needs no user and
the same tree is the same commit. What is added to the user's repository are objects, and refs under `refs/sae` and `refs/exps`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sae.config import Failure

IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "sae-pipeline"), ("EMAIL", "sae-pipeline@localhost"), ("DATE", "2000-01-01T00:00:00Z"))
}
# The settings of a repository that receives don't come from whoever pushes: its hooks and rules are for the user's own pushes.
_RECEIVE = "git -c core.hooksPath=/dev/null -c receive.autogc=false -c receive.denyNonFastForwards=false receive-pack"


def git(folder: Path, *arguments: str, env: dict[str, str] | None = None, stdin: str | None = None, check: bool = True) -> str:
    """Run git and return what it printed, without the last newline; empty where it failed and `check` is off.

    Raises:
        Failure: it failed.
    """
    # A hook or a filter of git may have set these for the repository that it is about.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith("GIT_CONFIG")}
    done = subprocess.run(
        ["git", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "advice.detachedHead=false", *arguments],
        cwd=folder,
        env={**clean, **IDENTITY, "GIT_TERMINAL_PROMPT": "0", **(env or {})},
        input="" if stdin is None else stdin,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # out of reach of the terminal's Ctrl-C, whose victim would be taken for a failure
    )
    if done.returncode:
        if check:
            raise Failure(f"git {arguments[0]} failed: {done.stderr.strip()}", where=str(folder))
        return ""
    return done.stdout.removesuffix("\n")


def snapshot(root: Path, ref: str) -> tuple[str, str]:
    """Commit the work tree as it is, uncommitted and untracked files included, and keep it under a ref.

    Args:
        root: the project.
        ref: such as `refs/sae/sweeps/3fa9c1`.

    Returns:
        The commit, and the one that it is based on: HEAD, or itself where there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        own = Path(git(root, "rev-parse", "--path-format=absolute", "--git-path", "index"))
        if own.exists():
            # What it knows of unchanged files saves reading them. By its time, git knows which it can't be sure of.
            shutil.copy2(own, index)
        env = {"GIT_INDEX_FILE": str(index)}
        git(root, "add", "--all", ":/", env=env)
        tree = git(root, "write-tree", env=env)
    head = git(root, "rev-parse", "--verify", "--quiet", "HEAD", check=False)
    commit = commit_tree(root, tree, head or None, "Snapshot for a sweep")
    git(root, "update-ref", ref, commit)
    return commit, head or commit


def commit_tree(root: Path, tree: str, parent: str | None, message: str, env: dict[str, str] | None = None) -> str:
    """Make a commit of a tree."""
    return git(root, "commit-tree", tree, *(["-p", parent] if parent else []), "-m", message, env=env)


def make_clone(repository: Path, clone: Path, commit: str) -> None:
    """A clone that stands at a commit of a repository, whose objects it shares; one that is there is brought to it.

    What git ignores in it, unfinished work above all, is kept.
    """
    inside = _inside(clone)
    for lock in (clone / ".git").glob("*.lock"):  # of a git that was killed: only one process at a time works in a clone
        lock.unlink(missing_ok=True)
    if not clone.exists() or not git(clone, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", env=inside, check=False):
        clone.mkdir(parents=True, exist_ok=True)
        draft = clone.with_name(f".{clone.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        git(clone.parent, "init", "--quiet", str(draft))
        objects = git(repository, "rev-parse", "--path-format=absolute", "--git-path", "objects")
        (draft / ".git/objects/info/alternates").write_text(f"{objects}\n", encoding="utf-8")
        shutil.rmtree(clone / ".git", ignore_errors=True)
        (draft / ".git").rename(clone / ".git")
        draft.rmdir()
    git(clone, "checkout", "--quiet", "--force", "--detach", commit, env=inside)
    git(clone, "clean", "--quiet", "--force", "-d", env=inside)


def record_experiment(clone: Path, repository: Path, base: str, name: str) -> str:
    """Commit a clone's tree and put it into a repository as a DVC experiment: `refs/exps/ab/cdef…/name` on its base.

    DVC 3 knows experiments by these refs; its own `exp save` takes 20 times as long and leaves out untracked files.

    Returns:
        The commit.
    """
    inside = _inside(clone)
    git(clone, "add", "--all", env=inside)
    commit = commit_tree(clone, git(clone, "write-tree", env=inside), base, f"Experiment {name}", inside)
    refspec = f"{commit}:{experiment_ref(base, name)}"
    git(clone, "push", "--quiet", "--force", f"--receive-pack={_RECEIVE}", str(repository), refspec, env=inside)
    return commit


def experiment_ref(base: str, name: str) -> str:
    """Where DVC 3 keeps an experiment."""
    return f"refs/exps/{base[:2]}/{base[2:]}/{name}"


def _inside(clone: Path) -> dict[str, str]:
    """Names the clone to git, which would look for it: from one that is half removed up into the user's repository around it."""
    return {"GIT_DIR": str(clone / ".git"), "GIT_WORK_TREE": str(clone)}
