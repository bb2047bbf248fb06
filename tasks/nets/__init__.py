"""Networks for classes (`Network`), the same with batch norm (`Classifier`), and for one score (`ScoringNetwork`)."""

from .classifier import Classifier, build_classifier, classifier_parameters, feature_size
from .network import ARCHITECTURES, Network, build, parameter_count, resolve
from .scoring import ScoringNetwork, build_scoring, scoring_parameters
from .trace import Trace, Traced

__all__ = [
    "ARCHITECTURES",
    "Classifier",
    "Network",
    "ScoringNetwork",
    "Trace",
    "Traced",
    "build",
    "build_classifier",
    "build_scoring",
    "classifier_parameters",
    "feature_size",
    "parameter_count",
    "resolve",
    "scoring_parameters",
]
