"""Fingerprints of what DVC can't see: the interpreter's library, globs, a model directory or a revision on a hub.

No fingerprint holds a time, a host or an absolute path.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sae.architectures import SHIPPED
from sae.config import Failure, InputError
from sae.corpus.documents import CorpusConfig, LocalFile, corpus_files
from sae.corpus.subject import SubjectConfig, is_local

T = TypeVar("T")

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".index.json")
TRAINED = ("data/sae", "data/train")  # outputs of the stage `train`, which DVC removes before it runs
_TOKENIZER_FILES = (
    "config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)


class FileHashes:
    """SHA-256 of files; a file whose size and time of change are as they were is not read again.

    Args:
        cache: JSON file that remembers between runs.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        try:
            self._known: dict[str, list[Any]] = json.loads(cache.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            self._known = {}
        self._used: dict[str, list[Any]] = {}

    def __call__(self, path: Path) -> str:
        stat = path.stat()
        key = os.path.abspath(path)
        known = self._known.get(key)
        if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
            with path.open("rb") as file:
                known = [stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]
        self._used[key] = known
        return str(known[2])

    def remember(self) -> None:
        """Write what was hashed for the next run."""
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._cache.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(self._used))
        fresh.replace(self._cache)


def fingerprints(
    corpus: CorpusConfig,
    subject: SubjectConfig,
    params: Mapping[str, Any],
    hashes: FileHashes,
    known: dict[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """All of them, by name; read from the folder that this process is in.

    Args:
        corpus: that section of params.yaml.
        subject: that one.
        params: all sections as plain data: the classes of two others would pull in torch, and this is to cost nothing.
        hashes: remembers files.
        known: remembers fingerprints, from one call to the next.

    Raises:
        InputError: something that a section names is not there.
    """
    known = {} if known is None else known

    def once(about: object, make: Callable[[], T]) -> T:
        key = repr(about)
        if key not in known:
            known[key] = make()
        found: T = known[key]
        return found

    tokenizer, model = once(subject, lambda: fingerprint_subject(subject, hashes))
    architecture = str((params.get("sae") or {}).get("architecture", ""))
    start = (params.get("train") or {}).get("start_from")
    return {
        "corpus": once(corpus, lambda: fingerprint_corpus(corpus, hashes)),
        "tokenizer": tokenizer,
        "subject": model,
        "architecture": once(("architecture", architecture), lambda: fingerprint_architecture(architecture, hashes)),
        "start": once(("start", start), lambda: fingerprint_start(start, hashes)),
    }


def fingerprint_corpus(config: CorpusConfig, hashes: FileHashes) -> dict[str, Any]:
    """Number, size and hash of the corpus's files, or the commit of a dataset on the hub."""
    if config.source == "huggingface":
        folder = Path(config.huggingface.dataset)
        if not folder.is_dir():
            revision = _hub_commit(
                config.huggingface.dataset, config.huggingface.revision, "dataset", "corpus.huggingface.dataset"
            )
            return {"source": config.source, "dataset": config.huggingface.dataset, "revision": revision}
        files = [LocalFile(p.relative_to(folder).as_posix(), p) for p in sorted(folder.rglob("*")) if p.is_file()]
    else:
        files = corpus_files(config)
    return {
        "source": config.source,
        "files": len(files),
        "bytes": sum(file.path.stat().st_size for file in files),
        "sha256": _digest((file.name, hashes(file.path)) for file in files),
    }


def fingerprint_subject(config: SubjectConfig, hashes: FileHashes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fingerprints of the tokenizer (with the model's config), and of the whole model.

    Raises:
        InputError: the directory holds no model, or no weights.
    """
    if not is_local(config):
        revision = _hub_commit(config.model, config.revision, "model", "subject.model")
        both = {"model": config.model, "revision": revision}
        return both, both
    folder = Path(config.model)
    files = {p.name: p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".") and p.suffix != ".md"}
    if "config.json" not in files:
        raise InputError("this model directory has no config.json", where="subject.model", found=config.model)
    if not any(name.endswith(WEIGHT_SUFFIXES) for name in files):
        raise InputError(
            "this model directory has no weights", where="subject.model", found=config.model, expected="model.safetensors"
        )
    tokenizer = {n: p for n, p in files.items() if n in _TOKENIZER_FILES or n.startswith("tokenizer")}
    return (
        {"revision": None, "sha256": _digest((name, hashes(path)) for name, path in tokenizer.items())},
        {"revision": None, "sha256": _digest((name, hashes(path)) for name, path in files.items())},
    )


def fingerprint_architecture(reference: str, hashes: FileHashes) -> dict[str, Any]:
    """Hash of the code of a user's own architecture; the shipped ones are dependencies of the stage already.

    The code is the module's file and what it imports from the workspace, or from its own package where that is installed.
    Other libraries, and modules that are imported by a computed name, are not in it.

    Raises:
        InputError: there is no such module, or its code is no valid Python.
    """
    if reference in SHIPPED or ":" not in reference:
        return {"architecture": reference}
    module = reference.partition(":")[0]
    try:
        spec = None if not module or module.startswith(".") else importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise InputError(
            "no such module can be imported", where="sae.architecture", found=reference, expected="package.module:Class"
        )
    files = _imported_with(module, Path(spec.origin))
    return {"architecture": reference, "sha256": _digest((name, hashes(path)) for name, path in files.items())}


def _imported_with(module: str, file: Path) -> dict[str, Path]:
    """The files, by module, of `module` and of all that it imports from beside it, found by reading and not by importing."""
    is_package = file.name == "__init__.py"
    base = file.parents[module.count(".") + is_package]  # the folder on the path of imports
    of_workspace = base.resolve() == Path.cwd().resolve()
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        beside = top not in ("sae", "pipeline") if of_workspace else top == module.partition(".")[0]
        places = (base.joinpath(*name.split("."), "__init__.py"), base.joinpath(*name.split(".")).with_suffix(".py"))
        path = next((place for place in places if place.is_file()), None)
        if name in found or not beside or path is None:
            continue
        found[name] = path
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        parents = name.split(".")[:-1]
        waiting += [".".join(parents[: end + 1]) for end in range(len(parents))]
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                target = ".".join([*above, *([node.module] if node.module else [])])
                waiting += [target, *(f"{target}.{alias.name}" for alias in node.names)]  # a name may be a module too
    return found


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise InputError(f"this is no valid Python: {error.msg} in line {error.lineno}", where=str(path)) from None


def fingerprint_start(start_from: str | None, hashes: FileHashes) -> dict[str, Any]:
    """Hash of the saved SAE or the run's state that training is to start from.

    Raises:
        InputError: there is no such folder, or it is one that training writes.
    """
    if start_from is None:
        return {"start_from": None}
    where, folder = "train.start_from", Path(start_from)
    if not folder.is_dir():
        raise InputError("there is no such folder", where=where, found=start_from, expected="a saved SAE, or a run's state")
    if any(folder.resolve().is_relative_to(Path(out).resolve()) for out in TRAINED):
        raise InputError(
            "this folder is gone as soon as training begins anew: copy it to another place, and start from there",
            where=where,
            found=start_from,
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    return {"start_from": start_from, "sha256": _digest((path.name, hashes(path)) for path in files)}


def _hub_commit(name: str, revision: str | None, kind: str, where: str) -> str:
    """The commit that a revision on the hub stands for: from the hub, or offline from the local copy."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=20)
        return str(info.sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"the hub has no such {kind}, or it is closed to you: {str(error).splitlines()[0]}", where=where, found=name
        ) from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, RuntimeError) as error:
        cached = try_to_load_from_cache(name, "config.json", revision=revision, repo_type=kind) if kind == "model" else None
        if isinstance(cached, str):
            return Path(cached).parent.name
        ref = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}" / "refs" / (revision or "main")
        if ref.exists():
            return ref.read_text().strip()
        raise Failure(
            f"the hub can't be reached, and there is no local copy of this {kind} ({type(error).__name__})",
            where=where,
            found=name,
            expected="a network connection, or a local directory",
        ) from None


def _digest(entries: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in sorted(entries)).encode()).hexdigest()
