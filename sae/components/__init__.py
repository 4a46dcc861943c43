"""The pieces that SAEs are made of."""

from sae.components import features
from sae.components.features import NormFeatures, OrthogonalizeFeatureGrads
from sae.components.frequency import EMAFreqTracker
from sae.components.hooks import TrainingHooks, Wrapper, training_hooks
from sae.components.losses import CosineDistanceLoss, L2Loss, Loss, SparsityPenaltyLoss
from sae.components.metrics import ActMetrics, PreActMetrics
from sae.components.penalties import L1Penalty

__all__ = [
    "ActMetrics",
    "CosineDistanceLoss",
    "EMAFreqTracker",
    "L1Penalty",
    "L2Loss",
    "Loss",
    "NormFeatures",
    "OrthogonalizeFeatureGrads",
    "PreActMetrics",
    "SparsityPenaltyLoss",
    "TrainingHooks",
    "Wrapper",
    "features",
    "training_hooks",
]
