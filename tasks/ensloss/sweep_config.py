"""Settings of the task loss_sweep."""

from typing import Annotated

from pydantic import Field, field_validator

from orchestrator.task import Role, Settings
from tasks.binary import BinaryDataset
from tasks.ensloss.margin_losses import LossName
from tasks.ensloss.training import Recipe
from tasks.nets.scoring import ScoringNetwork

Rate = Annotated[float, Field(gt=0)]


class SweepConfig(Settings):
    """Settings of loss_sweep; what is left out follows the author, for tables or for images."""

    datasets: Annotated[tuple[BinaryDataset, ...], Role.PLAN] = Field(min_length=1)
    """Two-class datasets, e.g. `[breast_cancer, {name: table, path: credit.csv, target: default}]`."""
    networks: Annotated[tuple[ScoringNetwork, ...], Role.PLAN] = Field(
        default=(ScoringNetwork(name="tabular_mlp"),), min_length=1
    )
    """Networks to train on each dataset."""
    losses: Annotated[tuple[LossName, ...], Role.PLAN] = Field(
        default=("ensloss", "bce", "hinge", "exponential"), min_length=1
    )
    """Losses to compare; EnsLoss, or else the first, is the one that the others are compared with."""
    repeats: Annotated[int, Role.PLAN] = Field(default=10, ge=1)
    """Splits and initialisations; all losses see the same ones, so that they are compared in pairs."""
    lr: Annotated[Rate | tuple[Rate, ...] | None, Role.PLAN] = None
    """Learning rate of SGD, or several to try each; none: 1e-4 for tables, 1e-3 for images."""
    stack: Annotated[int | None, Role.PLAN] = Field(default=None, gt=0)
    """Cells of one dataset and network that train as one program, and are one shard; none: the fastest on the
    device at hand, measured once. What they come to does not depend on it, beyond rounding."""
    epochs: int | None = Field(default=None, ge=1)
    """Epochs; none: 300 for tables, 200 for images."""
    batch_size: int = Field(default=128, ge=2)
    """Samples a step."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD, a fraction."""
    weight_decay: float | None = Field(default=None, ge=0)
    """L2 penalty on all weights, added to their gradient; none: 5e-6 for tables, 5e-4 for images."""
    test_every: int | None = Field(default=None, ge=1)
    """Epochs between points of the curves; none: 10 for tables, 5 for images. The last epoch is always tested."""
    test_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of a table's rows kept apart for testing; images have test samples of their own."""
    lam: float = Field(default=0.0, ge=-1, le=1)
    """Lambda of EnsLoss's inverse Box-Cox draws."""
    redraw_every: int | None = Field(default=None, ge=1)
    """Epochs after which EnsLoss draws lambda anew, uniform in (-1, 1); none: never."""
    alpha: Annotated[float, Role.CLOSING] = Field(default=0.05, gt=0, lt=1)
    """Level of the tests of significance."""

    @field_validator("losses", "networks", "datasets", "lr")
    @classmethod
    def _no_twins(cls, values: object) -> object:
        if isinstance(values, tuple) and len({str(value) for value in values}) < len(values):
            raise ValueError("something stands there twice; name each once")
        return values

    def recipe(self, images: bool) -> Recipe:
        """For tables or images."""
        return Recipe(
            epochs=self.epochs or (200 if images else 300),
            batch_size=self.batch_size,
            momentum=self.momentum,
            weight_decay=(5e-4 if images else 5e-6) if self.weight_decay is None else self.weight_decay,
            test_every=self.test_every or (5 if images else 10),
            lam=self.lam,
            redraw_every=self.redraw_every,
        )

    def rates(self, images: bool) -> tuple[float, ...]:
        """Learning rates, for tables or images."""
        if self.lr is None:
            return (1e-3 if images else 1e-4,)
        return self.lr if isinstance(self.lr, tuple) else (self.lr,)
