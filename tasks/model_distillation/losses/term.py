"""What all terms of a method's loss have in common: a weight, and when it counts."""

from typing import Any

from pydantic import Field, model_validator

from orchestrator.task import Settings


class Term(Settings):
    """One term of the loss. `nd: 2.0` is short for `nd: {weight: 2.0}`."""

    weight: float = Field(default=1.0, ge=0)
    """Factor on this term."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all epochs over which the weight grows linearly from 0, where it is in the whole first epoch; 0:
    full at once."""
    until: float = Field(default=1.0, gt=0, le=1)
    """Share of all epochs after which the term is left out."""

    @model_validator(mode="before")
    @classmethod
    def _from_weight(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"weight": float(value)} if is_number else value

    def factor(self, epoch: int, epochs: int) -> float:
        """Weight in `epoch`, counted from 0, of `epochs`."""
        if epoch >= self.until * epochs:
            return 0.0
        return self.weight * (min(1.0, epoch / (self.warmup * epochs)) if self.warmup else 1.0)


class SoftTerm(Term):
    """A term that compares softened probabilities."""

    temperature: float = Field(default=4.0, gt=0)
    """Both logits are divided by it; the loss is multiplied by its square, so that gradients keep their size."""
