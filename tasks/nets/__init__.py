"""Networks for classes (`Network`) and, with batch norm, for one score (`ScoringNetwork`)."""

from .network import ARCHITECTURES, Network, build, parameter_count, resolve
from .scoring import ScoringNetwork, build_scoring, scoring_parameters

__all__ = [
    "ARCHITECTURES",
    "Network",
    "ScoringNetwork",
    "build",
    "build_scoring",
    "parameter_count",
    "resolve",
    "scoring_parameters",
]
