"""By which judgement on the held-out sequences a student is the best. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import model_validator

from orchestrator.task import Settings
from tasks.binary.words import nearest

HELD_OUT = "held_out_"
AGREEMENT = "agreement"


class BestBy(Settings):
    """A metric of the held-out sequences. `best_by: held_out_agreement` is short for `{metric: held_out_agreement}`."""

    metric: str = f"{HELD_OUT}loss"
    """Its name, as the curves have it: `held_out_loss`, `held_out_perplexity`, `held_out_agreement`, ..."""
    mode: Literal["min", "max"] | None = None
    """Whether less or more of it is better; none: more of the agreement, less of any other."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"metric": value} if isinstance(value, str) else value

    def better(self, found: Mapping[str, float], before: Mapping[str, float]) -> bool:
        """Whether the judgement `found` is better than the best `before`, which is empty at first. Of equals the
        earlier one stays."""
        more = self.metric == HELD_OUT + AGREEMENT if self.mode is None else self.mode == "max"
        sign = -1.0 if more else 1.0
        return sign * found[self.metric] < sign * before.get(self.metric, sign * math.inf)

    def check(self, known: Sequence[str]) -> None:
        """ValueError where the judgements, by their names, do not have the metric."""
        if self.metric not in known:
            raise ValueError(
                f"best_by: the held-out sequences are not judged by {self.metric!r} here; "
                f"{nearest(self.metric, known)}"
            )
