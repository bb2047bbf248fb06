"""The `search` block: its settings, the space, and the points of random and grid searches. Pure.

A point depends on the experiment's seed, the number of its trial and the name of the setting alone: a search
that is taken up again, or goes on with other concurrency, has the same trials.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from orchestrator.task import Json, Settings, derive_seed

Point = Mapping[str, Json]
"""Setting, as `distilled.pixel_lr`, to its value."""
Number = int | float
TRIALS = 16
"""Where `trials` is not given, but for a grid, which is tried whole."""


class Distribution(Settings):
    """Where the values of one setting come from: exactly one of these."""

    uniform: tuple[float, float] | None = None
    """[low, high]: any number between."""
    loguniform: tuple[float, float] | None = None
    """[low, high], both above 0: any number between, uniform in its logarithm."""
    quniform: tuple[Number, Number, Number] | None = None
    """[low, high, step]: low, low + step, ... up to high; whole numbers where low and step are."""
    qloguniform: tuple[Number, Number, Number] | None = None
    """[low, high, step], low above 0: as quniform, uniform in the logarithm before it is rounded."""
    randint: tuple[int, int] | None = None
    """[low, high]: any whole number between, both ends included."""
    lograndint: tuple[int, int] | None = None
    """[low, high], low above 0: as randint, uniform in the logarithm."""
    choice: tuple[Any, ...] | None = None
    """[a, b, ...]: one of these values."""
    grid: tuple[Any, ...] | None = None
    """[a, b, ...]: each of these values; for `algorithm: grid`."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(type(self).model_fields)}")
        if self.values is not None:
            if not self.values or len({json.dumps(value) for value in self.values}) != len(self.values):
                raise ValueError(f"{self.kind}: expected one value or more, all different")
            return self
        low, high = self._low, self._high
        if not low < high:
            raise ValueError(f"{self.kind}: expected low < high, found {low} and {high}")
        if "log" in self.kind and low <= 0:
            raise ValueError(f"{self.kind}: expected low > 0, found {low}")
        if self.step is not None and not 0 < self.step <= (high - low) * (1 + 1e-9):
            raise ValueError(f"{self.kind}: expected 0 < step <= high - low, found {self.step}")
        return self

    @property
    def kind(self) -> str:
        """The name of the one that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def values(self) -> tuple[Json, ...] | None:
        """All values in their order where they are listed."""
        return self.choice if self.choice is not None else self.grid

    @property
    def log(self) -> bool:
        """Whether it is uniform in the logarithm."""
        return "log" in self.kind

    @property
    def step(self) -> Number | None:
        """Between two values, where these are not any number."""
        given = self.quniform or self.qloguniform
        return given[2] if given else 1 if self.kind.endswith("randint") else None

    @property
    def ends(self) -> tuple[Json, ...]:
        """The lowest and the highest value; all where they are listed."""
        if self.values is not None:
            return self.values
        if self.step is None:
            return float(self._low), float(self._high)
        return self._lattice(0), self._lattice(self._count - 1)

    def at(self, u: float) -> Json:
        """The value at a fraction `u` of the whole, 0 <= u < 1."""
        if self.values is not None:
            return self.values[int(u * len(self.values))]
        if self.step is None:
            return self._spread(u, self._low, self._high)
        if not self.log:
            return self._lattice(int(u * self._count))
        # the share of a value is what lies around it, half a step to both sides
        first = max(self._low - self.step / 2, self._low / 2)
        return self.snapped(self._spread(u, first, self._low + (self._count - 0.5) * self.step))

    def snapped(self, value: float) -> Json:
        """The nearest of the values that it can take."""
        if self.step is None:
            return value
        return self._lattice(min(self._count - 1, max(0, round((value - self._low) / self.step))))

    @property
    def _bounds(self) -> Sequence[Any]:
        found: Sequence[Any] = getattr(self, self.kind)
        return found

    @property
    def _low(self) -> Number:
        low: Number = self._bounds[0]
        return low

    @property
    def _high(self) -> Number:
        high: Number = self._bounds[1]
        return high

    @property
    def _count(self) -> int:
        assert self.step is not None
        return int((self._high - self._low) / self.step + 1e-9) + 1

    def _spread(self, u: float, low: float, high: float) -> float:
        value = math.exp(_between(math.log(low), math.log(high), u)) if self.log else _between(low, high, u)
        return min(float(high), max(float(low), value))

    def _lattice(self, index: int) -> Number:
        assert self.step is not None
        value = self._low + index * self.step
        return value if isinstance(value, int) else float(f"{value:.12g}")


class Search(Settings):
    """What `limbeck tune` reads of an experiment."""

    metric: str
    """Final metric to go by, `stage.metric`."""
    mode: Literal["max", "min"] = "max"
    """Whether more is better or less."""
    space: dict[str, Distribution] = Field(min_length=1)
    """Settings to vary, as `stages.distilled.pixel_lr`, with or without `stages.`."""
    trials: int | None = Field(default=None, ge=1)
    """How many; unset: 16, and all points of a grid."""
    algorithm: Literal["random", "grid", "optuna"] = "random"
    """Who chooses the points; `optuna`: tree-structured Parzen estimators."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """Who stops trials early, by the curve of the metric's name."""
    grace_period: int = Field(default=1, ge=1)
    """Steps of the curve before which no trial is stopped."""
    reduction_factor: float = Field(default=4.0, gt=1)
    """asha: one of so many goes on from a rung; rungs lie at grace_period times its powers."""
    max_t: int | None = Field(default=None, ge=1)
    """asha: steps beyond which there is no further rung; unset: rungs as far as the curve goes."""
    concurrency: int | None = Field(default=None, ge=1)
    """Trials side by side; unset: as many as the machine has room for, 4 at most."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """Seconds after which no trial is begun and those under way are stopped; unset: no limit."""

    @field_validator("metric")
    @classmethod
    def _dotted(cls, metric: str) -> str:
        if not all(metric.partition(".")):
            raise ValueError("expected stage.metric, as scores.distilled_accuracy")
        return metric

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_t is not None and self.max_t < self.grace_period:
            raise ValueError(f"max_t {self.max_t} is less than grace_period {self.grace_period}")
        names = [plain_name(name) for name in self.space]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"space names {name} twice, with `stages.` and without")
        for name, distribution in self.space.items():
            if self.algorithm == "grid" and distribution.values is None:
                raise ValueError(
                    f"algorithm grid cannot list {name}: {distribution.kind}; write grid: [...] or choice"
                )
            if self.algorithm != "grid" and distribution.kind == "grid":
                raise ValueError(f"{name}: grid is for `algorithm: grid`; write choice: [...]")
        return self

    @property
    def dimensions(self) -> dict[str, Distribution]:
        """The space under plain names, in the order of the names."""
        return {plain_name(name): self.space[name] for name in sorted(self.space, key=plain_name)}

    @property
    def count(self) -> int:
        """How many trials there are to be."""
        if self.algorithm != "grid":
            return self.trials or TRIALS
        size = math.prod(len(one.values or ()) for one in self.space.values())
        return min(size, self.trials or size)

    def identity(self) -> Json:
        """What makes it another search: all but how many trials, how many at once and for how long."""
        return self.model_dump(mode="json", exclude={"trials", "concurrency", "time_budget_s"})


def parse(block: Json) -> Search:
    """A `search` block that was checked before."""
    return Search.model_validate_json(json.dumps(block))


def plain_name(name: str) -> str:
    """`distilled.pixel_lr` of `stages.distilled.pixel_lr`."""
    return name.removeprefix("stages.")


def point(search: Search, seed: int, number: int) -> Point:
    """The point of a trial of a random or grid search. A grid goes through its last setting first."""
    assert search.algorithm in ("random", "grid")
    found: dict[str, Json] = {}
    for name, distribution in reversed(search.dimensions.items()):
        if search.algorithm == "grid":
            values = distribution.values or ()
            number, index = divmod(number, len(values))
            found[name] = values[index]
        else:
            found[name] = distribution.at(_fraction(seed, "search", number, name))
    return dict(sorted(found.items()))


def overrides(chosen: Point) -> list[str]:
    """A point as overrides, the same as a person would type."""
    return [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in chosen.items()]


def better(mode: str, one: float, other: float) -> bool:
    """Whether a metric is better than another."""
    return one > other if mode == "max" else one < other


def _fraction(*path: str | int) -> float:
    """A number in [0, 1) that depends on `path` alone."""
    return (derive_seed(*path) >> 10) / 2**53


def _between(low: float, high: float, u: float) -> float:
    return low + u * (high - low)
