"""A DVC remote as a folder of files, whatever kind of storage it is."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from sae.config import Failure, InputError, nearest_name


class RemoteFolder:
    """Files beside DVC's own objects.

    Args:
        root: the project.
        name: of the remote.
        where: the option or field that names it, for the error.

    Raises:
        InputError: there is no such remote.
        Failure: it can't be reached.
    """

    def __init__(self, root: Path, name: str, where: str = "run.remote.dvc") -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        with Repo(str(root)) as repo:
            known = list(repo.config["remote"])
            if name not in known:
                nearest = nearest_name(name, known)
                raise InputError("no such DVC remote", where=where, found=name, expected=", ".join(known), nearest=nearest)
            try:
                odb = repo.cloud.get_remote_odb(name)
            except DvcException as error:
                raise Failure(f"this DVC remote can't be reached: {error}", where=name) from error
        self._fs: Any = odb.fs
        of_objects = PurePosixPath(odb.path)
        self._folder = of_objects.parent.parent if odb.path.rstrip("/").endswith("files/md5") else of_objects

    def path(self, *parts: str) -> str:
        """Where a file lies."""
        return str(self._folder.joinpath(*parts))

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return bool(self._fs.exists(path))

    def put(self, source: Path, path: str) -> None:
        """Send a file; it bears its name once it is whole."""
        self._fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        self._fs.put_file(str(source), f"{path}.new")
        self._fs.move(f"{path}.new", path)

    def get(self, path: str, target: Path) -> None:
        """Fetch a file; it bears its name once it is whole."""
        fresh = target.with_name(f"{target.name}.new")
        self._fs.get_file(path, str(fresh))
        fresh.rename(target)

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        if self._fs.exists(path):
            self._fs.remove(path)
