"""Features of the teacher as hints (Romero et al. 2015, arXiv 1412.6550), here the penultimate ones."""

from torch import Tensor, nn

from tasks.model_distillation.losses.soft import pair
from tasks.model_distillation.losses.term import Term


class FitNet(Term):
    """Settings of the hints. Hints are cached with the labels, so they are the penultimate features and not, as in
    the paper, the maps of a middle layer; and they are given together with the other terms, not in a first phase."""


def fitnet(hinted: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the features of (r(s) - t)^2, of features (N, D): (N,)."""
    hinted, teacher = pair(hinted, teacher)
    return (hinted - teacher).square().mean(-1)


def regressor(student: int, teacher: int) -> nn.Module:
    """r: from the student's width to the teacher's, trained with the student and dropped after training. There is
    one at equal widths too, as nothing ties the axes of the two spaces to each other. Batch norm keeps the usual
    weight of 100 from driving it apart."""
    return nn.Sequential(nn.Linear(student, teacher, bias=False), nn.BatchNorm1d(teacher))
