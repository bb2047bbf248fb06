"""Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv 1503.02531)."""

from torch import Tensor

from tasks.model_distillation.losses.soft import divergence, log_probabilities, pair
from tasks.model_distillation.losses.term import SoftTerm


class Kd(SoftTerm):
    """Settings of KD."""


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t/T) || softmax(s/T)) of logits (..., C), one value a sample (...).

    Its mean over samples is what torch calls `batchmean`: the classes are summed, never averaged.
    """
    student, teacher = pair(student, teacher)
    log_p, log_q = (log_probabilities(logits, temperature) for logits in (teacher, student))
    return temperature**2 * divergence(log_p, log_q)
