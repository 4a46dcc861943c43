"""What a point is known by: a hash of the parameters that its stages read, of their code and of their inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, MutableMapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pipeline.fingerprints import FileHashes, fingerprints
from pipeline.project import stage_names
from pipeline.sections import read_yaml
from pipeline.stage import WORK, StageContext
from sae.config import parse_config
from sae.corpus.documents import CorpusConfig
from sae.corpus.subject import SubjectConfig

LAST_SHARED = "activations"  # the stages up to this one are the same for many points
INPUTS = "data/inputs"


class Keys:
    """Makes keys for a tree of code: `dvc.yaml` and the files that it names.

    Args:
        root: the project, or a clone of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.order = stage_names(root)
        self.stages = read_yaml(root / "dvc.yaml")["stages"]
        self.shared = self.order[: self.order.index(LAST_SHARED) + 1] if LAST_SHARED in self.order else []
        self._code = {name: self._code_of(name) for name in self.order}

    def point(self, params: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
        """Key of all stages with these parameters and fingerprints."""
        return self._key(self.order, params, inputs)

    def upstream(self, params: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
        """Key of the stages that points share, up to the activations; points with the same one need them once."""
        return self._key(self.shared, params, {name: inputs.get(name) for name in ("corpus", "tokenizer", "subject")})

    def _key(self, stages: Iterable[str], params: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
        of_stages = {
            name: [self._code[name], {path: _alike(value_at(params, path)) for path in self.stages[name].get("params") or []}]
            for name in stages
        }
        text = json.dumps([of_stages, inputs], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _code_of(self, stage: str) -> list[Any]:
        """Hash of the files that a stage names and that no stage makes, and its command."""
        made = outputs_of(self.stages)
        paths = [
            path
            for path in self.stages[stage].get("deps") or []
            if not any(path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/") for out in made)
        ]
        return [self.stages[stage]["cmd"], {path: StageContext.digest_of(self.root / path) for path in sorted(paths)}]


class Inputs:
    """Fingerprints of what points read; points with the same settings of it share one reading.

    Args:
        root: the project; the process is to be in it.
    """

    def __init__(self, root: Path) -> None:
        self._hashes = FileHashes(root / WORK / "hashes.json")
        self._known: dict[str, Any] = {}

    def __call__(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a point.

        Raises:
            InputError: something that it names is not there.
        """
        corpus = parse_config(CorpusConfig, params.get("corpus"), "corpus")
        subject = parse_config(SubjectConfig, params.get("subject"), "subject")
        count = len(self._known)
        found = fingerprints(corpus, subject, params, self._hashes, self._known)
        if len(self._known) > count:
            self._hashes.remember()
        return found


def outputs_of(stages: Mapping[str, Any]) -> list[str]:
    """Paths of what stages of dvc.yaml make."""
    return [out if isinstance(out, str) else next(iter(out)) for stage in stages.values() for out in stage.get("outs") or []]


def written_inputs(root: Path) -> dict[str, Any]:
    """Fingerprints that the stage `inputs` wrote."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((root / INPUTS).glob("*.json"))}


def _alike(value: Any) -> Any:
    """The same for 16 and 16.0, between which a config makes no difference."""
    if isinstance(value, Mapping):
        return {key: _alike(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_alike(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def value_at(params: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = params
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def with_values(params: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain sections with values set by dotted path."""
    made = dict(params)
    set_values(made, values)
    return made


def set_values(sections: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Set values by dotted path. What stands on the way is copied first, since an alias makes it a part of other sections too."""
    for path, value in values.items():
        at = sections
        *parents, last = path.split(".")
        for part in parents:
            at[part] = deepcopy(at[part]) if isinstance(at.get(part), Mapping) else {}
            at = at[part]
        at[last] = value
