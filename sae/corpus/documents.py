"""Documents by name, from the Python standard library, from files, or from a Hugging Face dataset.

A document is text, token ids, or a chat: a row's value tells by its type.
"""

from __future__ import annotations

import glob
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from sae.config import InputError, SweepableConfig, nearest_name
from sae.corpus.split import name_fraction

_ROW_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}

Message = dict[str, Any]
Content = str | list[int] | list[Message]


class FilesConfig(SweepableConfig):
    """Documents from files: one per text file, one per row of a `.jsonl` or `.parquet` file."""

    paths: list[str] = Field(default=[], description="Files or globs (`**` crosses folders), relative to the workspace.")
    column: str = Field(
        default="text", description="Column of the documents in .jsonl and .parquet files: text, lists of token ids, or chats."
    )


class HuggingFaceConfig(SweepableConfig):
    """Documents from a dataset on the Hugging Face hub, or from a folder that `datasets` can load."""

    dataset: str = Field(default="", description="Dataset id, such as `Skylion007/openwebtext`, or a folder.")
    name: str | None = Field(default=None, description="Configuration of the dataset, where it has several.")
    split: str = Field(default="train", description="Split to read; ours is made by document, below.")
    column: str = Field(default="text", description="Column of the documents: text, lists of token ids, or chats.")
    revision: str | None = Field(default=None, description="Branch, tag or commit; the newest if left out.")
    streaming: bool = Field(default=True, description="Read over the network as needed, instead of downloading all first.")


class CorpusConfig(SweepableConfig):
    """Which text, and which share of its documents is held out. Only the chosen source's section is read."""

    source: Literal["python-stdlib", "files", "huggingface"] = Field(
        default="python-stdlib", description="`python-stdlib` is the library of the interpreter that runs."
    )
    held_out: float = Field(default=0.1, gt=0, lt=1, description="Share of the documents kept from all training.")
    files: FilesConfig = FilesConfig()
    huggingface: HuggingFaceConfig = HuggingFaceConfig()


class Document(NamedTuple):
    """A document and the name that decides its split.

    Attributes:
        name: as no other document is called.
        content: text; or token ids; or a chat, messages with at least `role` and `content`.
    """

    name: str
    content: Content


class LocalFile(NamedTuple):
    """A file of the corpus: the name that its documents go by, and where it lies."""

    name: str
    path: Path


def iter_documents(config: CorpusConfig, dataset_revision: str | None = None) -> Iterator[Document]:
    """All documents of the corpus, in an order that only their names decide.

    Files come in the order of a hash of their names, which scatters folders; rows keep their order within a file or
    a Hugging Face dataset. Documents with nothing in them are left out.

    Args:
        config: which corpus.
        dataset_revision: commit of the Hugging Face dataset, if it was resolved before.

    Raises:
        InputError: the corpus has no file, or a file lacks the column, or holds something else in it.
    """
    if config.source == "huggingface":
        documents = _hub_documents(config.huggingface, dataset_revision or config.huggingface.revision)
    else:
        documents = (document for file in corpus_files(config) for document in _file_documents(file, config.files.column))
    for document in documents:
        if document.content.strip() if isinstance(document.content, str) else document.content:
            yield document


def corpus_files(config: CorpusConfig) -> list[LocalFile]:
    """The files of a local corpus, in order.

    Raises:
        InputError: there are none, or a pattern matches nothing.
    """
    files = _stdlib_files() if config.source == "python-stdlib" else _matching_files(config.files)
    return sorted(files, key=lambda file: (name_fraction(file.name), file.name, str(file.path)))


def _stdlib_files() -> list[LocalFile]:
    root = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages", "__pycache__"}
    files = [
        LocalFile(path.relative_to(root).as_posix(), path)
        for path in root.rglob("*.py")
        if not foreign.intersection(path.relative_to(root).parts)
    ]
    if not files:
        raise InputError("this interpreter ships no source of its standard library", where="corpus.source", found=str(root))
    return files


def _matching_files(config: FilesConfig) -> list[LocalFile]:
    if not config.paths:
        raise InputError("no path is given", where="corpus.files.paths", expected="a list of files or globs")
    found: dict[Path, LocalFile] = {}
    for pattern in config.paths:
        # A document is named from the last folder that the pattern spells out, so that a corpus can be moved.
        fixed = Path(*_before_wildcard(pattern))
        root = fixed if glob.has_magic(pattern) else fixed.parent
        paths = sorted(p for p in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(p))
        if not paths:
            raise InputError("this path matches no file", where="corpus.files.paths", found=pattern, nearest=_nearest_path(fixed))
        for path in map(Path, paths):
            relative = path.relative_to(os.path.expanduser(root)).as_posix()
            found.setdefault(path.resolve(), LocalFile(relative, path))
    return list(found.values())


def _nearest_path(missing: Path) -> str | None:
    """What stands in the place of a path and is spelled most like it; for a folder, the pattern of its files."""
    folder = missing.expanduser().parent
    nearest = nearest_name(missing.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else None
    if nearest is None:
        return None
    return str(missing.parent / nearest / "**/*" if nearest == missing.name else missing.parent / nearest)


def _before_wildcard(pattern: str) -> list[str]:
    parts: list[str] = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts or ["."]


def _file_documents(file: LocalFile, column: str) -> Iterator[Document]:
    row_format = _ROW_FORMATS.get(file.path.suffix.lower())
    if row_format is None:
        yield Document(file.name, _read_text(file.path))
        return
    import datasets

    try:
        rows = datasets.load_dataset(row_format, data_files=str(file.path), split="train", streaming=True)
        for index, row in enumerate(rows):
            yield Document(f"{file.name}#{index}", _content_of(row, column, str(file.path), "corpus.files.column"))
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        raise InputError(f"this file can't be read as {row_format}: {error}", where=str(file.path)) from error


def _hub_documents(config: HuggingFaceConfig, revision: str | None) -> Iterator[Document]:
    if not config.dataset:
        raise InputError("no dataset is given", where="corpus.huggingface.dataset", expected="a dataset id or a folder")
    import datasets

    folder = Path(config.dataset)
    name = folder.resolve().name if folder.is_dir() else config.dataset  # the name stays when a folder is moved
    try:
        rows = datasets.load_dataset(
            config.dataset, config.name, split=config.split, revision=revision, streaming=config.streaming
        )
        for index, row in enumerate(rows):
            content = _content_of(row, config.column, name, "corpus.huggingface.column")
            yield Document(f"{name}/{config.split}#{index}", content)
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"this dataset can't be read: {first_line}", where="corpus.huggingface.dataset", found=config.dataset
        ) from error


def _content_of(row: dict[str, Any], column: str, origin: str, field: str) -> Content:
    if column not in row:
        raise InputError(
            f"{origin} has no such column",
            where=field,
            found=column,
            expected="one of " + ", ".join(row),
            nearest=nearest_name(column, row),
        )
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(type(item) is int for item in value):  # a bool is an int to isinstance
        return value
    if isinstance(value, list) and all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in value):
        # Columnar files give every message every key that any message has; to a chat template, null is not absent.
        return [{k: v for k, v in item.items() if v is not None or k in ("role", "content")} for item in value]
    kinds = ", ".join(dict.fromkeys(type(item).__name__ for item in value)) if isinstance(value, list) else ""
    raise InputError(
        f"this column of {origin} holds no documents",
        where=field,
        found=f"list of {kinds}" if kinds else type(value).__name__,
        expected="text (str), a list of token ids (int), or a chat (a list of messages with role and content)",
    )


def _read_text(path: Path) -> str:
    """A text file as str: Python source by its declared encoding, anything else as UTF-8; other bytes become U+FFFD.

    Raises:
        InputError: the file holds a zero byte, as archives, pictures and PDFs do and text does not.
    """
    encoding = "utf-8"
    content = path.read_bytes()
    if path.suffix == ".py":
        try:
            with path.open("rb") as file:
                encoding, _ = tokenize.detect_encoding(file.readline)
        except SyntaxError:  # a few files of the standard library's tests declare a wrong encoding on purpose
            encoding = "utf-8"
    elif b"\0" in content:
        raise InputError("this file is no text", where=str(path), expected="a narrower pattern in corpus.files.paths")
    return content.decode(encoding, errors="replace").replace("\r\n", "\n")
