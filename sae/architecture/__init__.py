"""Declaring SAEs, building what is declared, saving and loading it."""

from sae.architecture.architecture import Architecture
from sae.architecture.initializer import Initializer
from sae.architecture.model import SAE
from sae.architecture.properties import aux_model_prop, loss_prop, metric_prop, model_prop
from sae.architecture.saved import TrainedSAE, import_architecture, load, save
from sae.architecture.trainable import Trainable

__all__ = [
    "SAE",
    "Architecture",
    "Initializer",
    "Trainable",
    "TrainedSAE",
    "aux_model_prop",
    "import_architecture",
    "load",
    "loss_prop",
    "metric_prop",
    "model_prop",
    "save",
]
