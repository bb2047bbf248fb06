"""The settings of DAC-KL."""

from typing import Literal

from pydantic import Field, model_validator

from orchestrator.task import Settings


class DacKl(Settings):
    """Settings of DAC-KL (MGSR, ACL 2026), a KL over the teacher's high-density classes.

    The paper's equations were not at hand. Known from its reviews: a small network finds an upper and a lower
    quantile for each position, the teacher is clipped to the band between them, all is trained by the loss.
    Every field below is a reconstruction.
    """

    weight: float = Field(default=1.0, gt=0)
    """Factor in the sum of all terms."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both models before the softmax."""
    top: int = Field(default=16, gt=0)
    """Classes whose probabilities, the teacher's and the student's, the gate sees."""
    hidden: int = Field(default=64, gt=0)
    """Width of the gate's one hidden layer."""
    band: tuple[float, float] | None = None
    """Fixed lower and upper quantile, without a gate, e.g. [0.0, 1.0], which is forward_kl; none learns them."""
    quantile: Literal["mass", "count"] = "mass"
    """What a quantile counts, from the least likely class up: probability mass, or classes."""
    softness: float = Field(default=0.5, gt=0)
    """Width of the band's soft edges, in nats of the teacher's log-probability."""
    mask: Literal["soft", "hard"] = "soft"
    """Soft edges; or classes in or out, with the soft mask's gradient (straight through)."""
    student: Literal["renormalised", "bucket"] = "renormalised"
    """Both models scaled to sum to 1 within the band; or what is outside as one more class of both."""
    guard: Literal["hinge", "clamp", "none"] = "hinge"
    """Against a gate that shrinks the band until nothing is left to learn: a penalty on kept teacher mass below
    `min_mass`; or a lower quantile of at most 0.5 and an upper of at least 0.9."""
    guard_weight: float = Field(default=1.0, gt=0)
    """Factor of the hinge."""
    min_mass: float = Field(default=0.5, gt=0, lt=1)
    """Teacher mass that the band is to keep."""

    @model_validator(mode="after")
    def _ordered(self) -> "DacKl":
        if self.band and not 0 <= self.band[0] < self.band[1] <= 1:
            raise ValueError(f"band is {list(self.band)}; expected 0 <= lower < upper <= 1")
        return self
