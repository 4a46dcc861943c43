"""Configuration: typed sections with clear errors, and random generators by name. Imports neither torch nor any higher layer."""

from sae.config.base import SweepableConfig, parse_config
from sae.config.errors import Failure, InputError, SaeError, nearest_name
from sae.config.seeds import derive_seed, generator, seeded_global_rng

__all__ = [
    "Failure",
    "InputError",
    "SaeError",
    "SweepableConfig",
    "derive_seed",
    "generator",
    "nearest_name",
    "parse_config",
    "seeded_global_rng",
]
