"""The setting `methods:` of distill_student: what a student's loss is made of, and the methods known by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from orchestrator.task import Settings
from tasks.model_distillation.losses.dhkd import Dhkd
from tasks.model_distillation.losses.dist import Dist
from tasks.model_distillation.losses.dkd import Dkd
from tasks.model_distillation.losses.fitnet import FitNet
from tasks.model_distillation.losses.kd import Kd
from tasks.model_distillation.losses.logit_mse import LogitMse
from tasks.model_distillation.losses.multi_sample_dropout import MultiSampleDropout
from tasks.model_distillation.losses.nd import Nd
from tasks.model_distillation.losses.term import Term

MethodName = Literal[
    "control", "kd", "kdpp", "dkd", "dkdpp", "dist", "distpp", "logit_mse", "logit_msepp", "dhkd", "fitnet",
    "multi_sample_dropout", "ensloss",
]  # fmt: skip
WARMUP = 1 / 12
"""Of the authors of DKD and ND: 20 of 240 epochs."""
METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "control": {"ce": 1.0},
        "kd": {"ce": 0.1, "kd": 0.9},
        "kdpp": {"ce": 1.0, "kd": {"weight": 1.0, "warmup": WARMUP}, "nd": 2.0},
        "dkd": {"ce": 1.0, "dkd": {"warmup": WARMUP}},
        "dkdpp": {"ce": 1.0, "dkd": {"warmup": WARMUP, "alpha": 2.5, "beta": 4.0}, "nd": 3.5},
        "dist": {"ce": 1.0, "dist": 1.0},
        "distpp": {"ce": 1.0, "dist": {"weight": 2.0, "warmup": WARMUP}, "nd": 1.0},
        "logit_mse": {"ce": 1.0, "logit_mse": 1.0},
        "logit_msepp": {"ce": 1.0, "logit_mse": {"weight": 1.0, "warmup": WARMUP}, "nd": 2.0},
        "dhkd": {"ce": 1.0, "dhkd": 1.0},
        "fitnet": {"ce": 1.0, "fitnet": 100.0},
        "multi_sample_dropout": {"ce": 1.0, "dropout": {}},
        "ensloss": {"ensloss": 1.0},
    }
)
"""Name to its settings. Weights of KD, DKD, FitNet and DHKD are the usual ones for CIFAR-100; those of the ++ ones
are what ND's authors use from ResNet-56 to ResNet-20; those of DIST, logit MSE, logit MSE++ are choices of ours."""
assert set(METHODS) == set(get_args(MethodName))

TERMS = ("ce", "kd", "dkd", "dist", "logit_mse", "nd", "dhkd", "fitnet", "ensloss")
OF_LOGITS = ("kd", "dkd", "dist", "logit_mse", "dhkd")
"""Terms that need the teacher's logits."""
OF_FEATURES = ("nd", "fitnet")
"""Terms that need the teacher's features."""


class Method(Settings):
    """A method by name, with whatever is to be different: `kd`, `{name: kd, kd: {temperature: 2}, nd: 1.5}`.

    A term given as a number changes its weight, given as settings it changes these; `kd: null` leaves it out.
    """

    name: MethodName
    """Where the settings that are left out come from."""
    title: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    """What it is called in tables and metrics; none: its name."""
    ce: Term | None = None
    """Cross entropy with the true classes."""
    kd: Kd | None = None
    """Divergence of softened probabilities."""
    dkd: Dkd | None = None
    """The same in two parts of weights of their own."""
    dist: Dist | None = None
    """Correlation of probabilities."""
    logit_mse: LogitMse | None = None
    """Squared difference of logits."""
    nd: Nd | None = None
    """Norm and direction of features: the ++ of KD++, DKD++, DIST++."""
    dhkd: Dhkd | None = None
    """Logits by a head of their own."""
    fitnet: FitNet | None = None
    """Squared difference of features."""
    ensloss: Term | None = None
    """EnsLoss, one class against the rest, in place of cross entropy or beside it."""
    dropout: MultiSampleDropout | None = None
    """Multi-sample dropout before the last layer."""

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, value: Any) -> Any:
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping) or given.get("name") not in METHODS:
            return given
        merged: dict[str, Any] = {**METHODS[given["name"]]}
        for field, change in given.items():
            merged[field] = _changed(merged.get(field), change)
        return merged

    @model_validator(mode="after")
    def _has_a_term(self) -> "Method":
        if not any(term.weight for term in self.terms.values()):
            raise ValueError(
                f"method {self.label}: no term of its loss has a weight; give one, such as `ce: 1`"
            )
        return self

    @property
    def label(self) -> str:
        """In tables and metrics."""
        return self.title or self.name

    @property
    def terms(self) -> dict[str, Term]:
        """Those it has, by name."""
        every = {name: getattr(self, name) for name in TERMS}
        return {name: term for name, term in every.items() if term is not None}

    @property
    def formula(self) -> str:
        """What it computes, whatever it is called: `ce0.1-kd0.9.temperature2.0`."""
        parts = [f"{name}{term.weight}{_told(term, {'weight'})}" for name, term in self.terms.items()]
        return "-".join(parts + ([f"dropout{_told(self.dropout, set())}"] if self.dropout else []))

    def needs(self) -> set[str]:
        """What of the teacher: `logits`, `features`."""
        parts = {"logits": OF_LOGITS, "features": OF_FEATURES}
        return {part for part, names in parts.items() if any(name in self.terms for name in names)}


def _changed(preset: Any, change: Any) -> Any:
    """A term's preset, a weight or settings, with the user's change, the same."""
    settings = {"weight": preset} if isinstance(preset, float) else preset
    if isinstance(change, int | float) and not isinstance(change, bool):
        change = {"weight": float(change)}
    return {**settings, **change} if isinstance(settings, Mapping) and isinstance(change, Mapping) else change


def _told(settings: Settings, but: set[str]) -> str:
    """Its settings that differ from their defaults."""
    told = settings.model_dump(exclude=but, exclude_defaults=True)
    return "".join(f".{name}{value}" for name, value in told.items())
