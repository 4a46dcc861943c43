"""The whole tree of params.yaml: the config classes of `sae` and `pipeline`, put together and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.report.config import ReportConfig
from pipeline.run_config import RunConfig
from pipeline.sections import PARAMS_FILE, read_yaml
from sae.activations.capture import ActivationsConfig
from sae.architectures.config import SAEConfig
from sae.config import SweepableConfig, parse_config
from sae.corpus.documents import CorpusConfig
from sae.corpus.subject import SubjectConfig
from sae.corpus.tokens import TokensConfig
from sae.evaluation.evaluate import EvaluateConfig
from sae.sweeps import SweepConfig
from sae.training.config import TrainConfig


class Params(SweepableConfig):
    """params.yaml. Every section but `sweep` is there, since DVC watches them; a key within one may be left out."""

    corpus: CorpusConfig
    subject: SubjectConfig
    tokens: TokensConfig
    activations: ActivationsConfig
    sae: SAEConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    run: RunConfig
    sweep: SweepConfig = SweepConfig()


def load_params(root: Path) -> Params:
    """Read and check the params.yaml of a workspace.

    Raises:
        InputError: naming every wrong field.
    """
    return check_params(read_yaml(root / PARAMS_FILE))


def check_params(data: Mapping[str, Any]) -> Params:
    """Check a whole params.yaml, given as plain data.

    Raises:
        InputError: naming every wrong field.
    """
    params = parse_config(Params, data)
    params.sae.architecture_config()
    return params
