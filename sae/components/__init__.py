"""The pieces that SAEs are made of."""

from sae.components import features
from sae.components.features import NormFeatures, OrthogonalizeFeatureGrads
from sae.components.frequency import EMAFreqTracker
from sae.components.hooks import TrainingHooks, Wrapper, training_hooks
from sae.components.jumprelu import JumpReLU
from sae.components.losses import CosineDistanceLoss, L0Loss, L0TargetLoss, L2Loss, Loss, NestedL2Loss, SparsityPenaltyLoss
from sae.components.metrics import ActMetrics, PreActMetrics
from sae.components.nested import NestedDecoder
from sae.components.nonlinearities import BatchTopK, KAnnealConfig, TopK
from sae.components.penalties import AnnealedPenalty, DecoderNormPenalty, L1Penalty
from sae.components.prolu import ProLU
from sae.components.thresholds import LearntThreshold

__all__ = [
    "ActMetrics",
    "AnnealedPenalty",
    "BatchTopK",
    "CosineDistanceLoss",
    "DecoderNormPenalty",
    "EMAFreqTracker",
    "JumpReLU",
    "KAnnealConfig",
    "L0Loss",
    "L0TargetLoss",
    "L1Penalty",
    "L2Loss",
    "LearntThreshold",
    "Loss",
    "NestedDecoder",
    "NestedL2Loss",
    "NormFeatures",
    "OrthogonalizeFeatureGrads",
    "PreActMetrics",
    "ProLU",
    "SparsityPenaltyLoss",
    "TopK",
    "TrainingHooks",
    "Wrapper",
    "features",
    "training_hooks",
]
