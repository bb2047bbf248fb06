"""A method's loss of one batch: its terms, and the layers that only they need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tasks.ensloss.loss import OneVsRestEnsLoss
from tasks.model_distillation.losses import dhkd as dual_head
from tasks.model_distillation.losses import nd as norm_direction
from tasks.model_distillation.losses.dist import Dist, dist
from tasks.model_distillation.losses.dkd import Dkd, dkd
from tasks.model_distillation.losses.fitnet import fitnet, regressor
from tasks.model_distillation.losses.kd import Kd, kd
from tasks.model_distillation.losses.logit_mse import LogitMse, logit_mse
from tasks.model_distillation.losses.multi_sample_dropout import masked, repeated
from tasks.model_distillation.losses.soft import wide
from tasks.model_distillation.losses.term import Term
from tasks.model_distillation.methods import Method
from tasks.model_distillation.ranks import Ranks
from tasks.nets.trace import Trace, Traced


@dataclass(frozen=True)
class Targets:
    """What N samples of a step are to be, and what the teacher makes of the same views."""

    classes: Tensor
    """(N,): true classes; of a mixed view that of the larger part."""
    partners: Tensor
    """(N,): the class of the other part; the same where nothing is mixed."""
    shares: Tensor
    """(N,): of the first class, the other has the rest."""
    logits: Tensor | None = None
    """(N, C) of the teacher."""
    features: Tensor | None = None
    """(N, D) of the teacher."""

    def copies(self, number: int) -> "Targets":
        """Beside the copies of the batch that multi-sample dropout makes."""
        rows = {name: getattr(self, name) for name in ("classes", "partners", "shares", "logits")}
        return replace(self, **{name: repeated(row, number) for name, row in rows.items() if row is not None})


@dataclass(frozen=True)
class Step:
    """Which step it is."""

    epoch: int
    epochs: int
    samples: int
    """Of all ranks together: what the sum over the samples is divided by."""
    seed: int
    """Of what EnsLoss draws; the same on every rank."""
    ranks: Ranks


@dataclass(frozen=True)
class Sizes:
    """Of the networks."""

    features: int
    """Of the student."""
    classes: int
    teacher_features: int = 0
    """0 where the teacher's are not known."""


class Objective(nn.Module):
    """A method's loss. Its parameters are trained with the student's and dropped at the end.

    `directions` (C, D): the teacher's, for ND (`losses.nd.directions`).
    """

    directions: Tensor | None

    def __init__(self, method: Method, sizes: Sizes, directions: Tensor | None = None) -> None:
        super().__init__()
        self.method = method
        self.register_buffer("directions", directions, persistent=False)
        layers = {}
        if method.dhkd:
            layers["dhkd"] = dual_head.head(method.dhkd.head, sizes.features, sizes.classes)
        if method.nd:
            layers["nd"] = norm_direction.projector(sizes.features, sizes.teacher_features, method.nd.dropout)
        if method.fitnet:
            layers["fitnet"] = regressor(sizes.features, sizes.teacher_features)
        self.layers = nn.ModuleDict(layers)

    def forward(self, student: Traced, images: Tensor, targets: Targets, step: Step) -> dict[str, Tensor]:
        """Each term that counts in this epoch: weighted, this rank's part of the mean over all samples."""
        trace, terms = student.trace(images), self.method.terms
        logits, shown, copies = self._dropped(student, trace, targets)
        found = {}
        for name, term in terms.items():
            factor = term.factor(step.epoch, step.epochs)
            if factor == 0:
                continue
            if name in OF_BATCH:
                value = step.ranks.part(OF_BATCH[name](term, logits, shown, step))
            elif name in OF_LOGITS:
                value = OF_LOGITS[name](term, logits, shown).sum() / (copies * step.samples)
            else:
                value = self._of_features(name, trace.features, targets).sum() / step.samples
            found[name] = factor * value
        return found

    def _dropped(self, student: Traced, trace: Trace, targets: Targets) -> tuple[Tensor, Targets, int]:
        """Logits, their targets and how often each sample is among them: several times under multi-sample dropout."""
        dropout = self.method.dropout
        if dropout is None:
            return trace.logits, targets, 1
        logits = student.head(masked(trace.features, dropout.samples, dropout.rate))
        return logits, targets.copies(dropout.samples), dropout.samples

    def _of_features(self, name: str, features: Tensor, targets: Targets) -> Tensor:
        own, teacher = self.layers[name](features), targets.features
        if name == "dhkd":
            term = self.method.dhkd
            assert term is not None
            return dual_head.BINARY[term.form](own, _known(targets.logits), term.temperature)
        if name == "fitnet":
            return fitnet(own, _known(teacher))
        directions = _known(self.directions)[targets.classes]
        return norm_direction.nd(own, wide(_known(teacher)).norm(dim=1), directions)


def _ce(term: Term, logits: Tensor, targets: Targets) -> Tensor:
    first, second = (
        cross_entropy(wide(logits), classes, reduction="none")
        for classes in (targets.classes, targets.partners)
    )
    return targets.shares * first + (1 - targets.shares) * second


def _kd(term: Kd, logits: Tensor, targets: Targets) -> Tensor:
    return kd(logits, _known(targets.logits), term.temperature)


def _dkd(term: Dkd, logits: Tensor, targets: Targets) -> Tensor:
    teacher = _known(targets.logits)
    return dkd(logits, teacher, targets.classes, term.temperature, alpha=term.alpha, beta=term.beta)


def _logit_mse(term: LogitMse, logits: Tensor, targets: Targets) -> Tensor:
    return logit_mse(logits, _known(targets.logits))


def _dist(term: Dist, logits: Tensor, targets: Targets, step: Step) -> Tensor:
    student, teacher = (step.ranks.whole(wide(part)) for part in (logits, _known(targets.logits)))
    return dist(student, teacher, term.temperature, beta=term.beta, gamma=term.gamma)


def _ensloss(term: Term, logits: Tensor, targets: Targets, step: Step) -> Tensor:
    whole, classes = step.ranks.whole(wide(logits)), step.ranks.whole(targets.classes)
    surrogate: Tensor = OneVsRestEnsLoss(seed=step.seed)(whole, classes)
    return surrogate


def _known(found: Tensor | None) -> Tensor:
    assert found is not None, "the task hands over what a method needs"
    return found


OF_LOGITS: Mapping[str, Callable[[Any, Tensor, Targets], Tensor]] = MappingProxyType(
    {"ce": _ce, "kd": _kd, "dkd": _dkd, "logit_mse": _logit_mse}
)
"""Terms with one value a sample."""
OF_BATCH: Mapping[str, Callable[[Any, Tensor, Targets, Step], Tensor]] = MappingProxyType(
    {"dist": _dist, "ensloss": _ensloss}
)
"""Terms with one value a batch."""
