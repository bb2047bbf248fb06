"""What a student learns from: divergences, mixtures, and the loss in chunks."""

from tasks.llm_distillation.losses.dac_config import DacKl
from tasks.llm_distillation.losses.dac_kl import Gate
from tasks.llm_distillation.losses.distillation import (
    IGNORED,
    LossSums,
    check_teacher,
    distillation_loss,
    shifted,
)
from tasks.llm_distillation.losses.divergences import DIVERGENCES, divergence
from tasks.llm_distillation.losses.mixture import Divergence, Mixture
from tasks.llm_distillation.losses.reduction import mean_over_tokens
from tasks.llm_distillation.losses.spans import SpanCorrelation, span_loss, word_spans
from tasks.llm_distillation.losses.teachers import (
    AlignedTeacher,
    DenseTeacher,
    SampledTeacher,
    TopKTeacher,
)

__all__ = [
    "DIVERGENCES",
    "IGNORED",
    "AlignedTeacher",
    "DacKl",
    "DenseTeacher",
    "Divergence",
    "Gate",
    "LossSums",
    "Mixture",
    "SampledTeacher",
    "SpanCorrelation",
    "TopKTeacher",
    "check_teacher",
    "distillation_loss",
    "divergence",
    "mean_over_tokens",
    "shifted",
    "span_loss",
    "word_spans",
]
