"""The settings of a loss: one divergence, and the weighted mixture that a student learns from."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.task import Settings
from tasks.llm_distillation.losses.dac_config import DacKl

DivergenceName = Literal[
    "forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "symmetric_kl", "tvd", "akl", "uld"
]
PARAMETERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "jsd": frozenset({"beta", "normalised"}),
        "skew_kl": frozenset({"lam"}),
        "skew_reverse_kl": frozenset({"lam"}),
        "symmetric_kl": frozenset({"lam"}),
        "akl": frozenset({"alpha"}),
    }
)
"""Which divergence has which parameters of its own."""
LAM = {"symmetric_kl": 0.9}
SKEW_LAM = 0.1


class Divergence(Settings):
    """One weighted term: how far the student's distribution q is from the teacher's p at each position."""

    name: DivergenceName
    """Which one; the formulas are in docs/lm_losses.md."""
    weight: float = Field(default=1.0, gt=0)
    """Factor in the sum of all terms. No temperature**2 is put in: give it here if it is wanted."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both models before the softmax."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """jsd: the teacher's share of the mixture beta p + (1 - beta) q. 0 is forward_kl, 1 is reverse_kl."""
    normalised: bool = False
    """jsd: divide by beta (1 - beta), so that nothing jumps as beta goes to 0 or 1."""
    lam: float | None = Field(default=None, ge=0, le=1)
    """skew_kl, skew_reverse_kl: the share of the first argument in the second (none: 0.1).
    symmetric_kl: the share of reverse_kl (none: 0.9)."""
    alpha: float = Field(default=0.5, gt=0, lt=1)
    """akl: the teacher's probability mass that counts as its tail."""

    @property
    def share(self) -> float:
        """lam, or its default."""
        return LAM.get(self.name, SKEW_LAM) if self.lam is None else self.lam

    @model_validator(mode="after")
    def _only_its_own(self) -> "Divergence":
        foreign = self.model_fields_set - {"name", "weight", "temperature"} - PARAMETERS.get(self.name, set())
        if foreign:
            raise ValueError(f"{self.name} has no {', '.join(sorted(foreign))}; leave it out")
        return self


class Mixture(Settings):
    """What a student learns from: weighted divergences from the teacher, and cross-entropy on the labels.

    Per token: kd_weight(step) * sum of weight * divergence + cross_entropy * CE.
    """

    divergences: tuple[Divergence, ...] = Field(default=(), strict=False)
    """Weighted terms, e.g. `[{name: forward_kl, weight: 0.5, temperature: 2.0}]`; each name once."""
    cross_entropy: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy on the labels, at temperature 1."""
    dac_kl: DacKl | None = None
    """DAC-KL, a KL on those classes that a learned gate keeps; none leaves it out."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimiser steps over which the weight of the teacher's terms grows in a line from 0; 0 is at once."""
    off_support: Literal["bucket", "zero"] = "bucket"
    """What a teacher known by its top k tokens says of all others: they share the mass that is left, as one
    class for both models; or nothing, and the k are scaled to sum to 1."""

    @field_validator("divergences")
    @classmethod
    def _no_twins(cls, terms: tuple[Divergence, ...]) -> tuple[Divergence, ...]:
        names = [term.name for term in terms]
        twins = sorted({name for name in names if names.count(name) > 1})
        if twins:
            raise ValueError(f"{', '.join(twins)} stands there twice; name each divergence once")
        return terms

    @model_validator(mode="after")
    def _something_to_learn(self) -> "Mixture":
        if not (self.divergences or self.cross_entropy or self.dac_kl):
            raise ValueError("there is nothing to learn from; give divergences, dac_kl or cross_entropy > 0")
        return self

    @property
    def needs_teacher(self) -> bool:
        return bool(self.divergences or self.dac_kl)

    @property
    def takes_other_tokens(self) -> bool:
        """Whether the teacher may have another tokenizer."""
        return {term.name for term in self.divergences} == {"uld"} and not self.dac_kl

    def kd_weight(self, step: int) -> float:
        """Weight of the teacher's terms in optimiser step `step`, counted from 0."""
        return min(1.0, (step + 1) / (self.warmup_steps + 1))
