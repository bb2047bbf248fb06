"""The mathematics of trajectory matching: MTT's loss and its gradient, and the parts that AST adds.

Sources: MTT (Cazenavette et al. 2022); AST (Shen, Yang, Lam 2023, arXiv 2310.10541), whose formulas follow
the authors' code. All weights are flat vectors (P,).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.dataset_distillation.adjoint import StepLoss, Student

Intermediate = Literal["none", "equal", "adaptive"]


@dataclass(frozen=True)
class Target:
    """Where the student should be after `step` steps, and the weight of that demand in the loss."""

    step: int
    weights: Tensor
    factor: float = 1.0


@dataclass(frozen=True)
class MatchingGradient:
    """The matching loss (a scalar) and its gradients; `labels` is None for hard labels."""

    loss: Tensor
    images: Tensor
    step_size: Tensor
    labels: Tensor | None


def matching_gradient(
    step_loss: StepLoss,
    start: Tensor,
    targets: Sequence[Target],
    images: Tensor,
    labels: Tensor,
    step_size: Tensor,
    *,
    steps: int,
    momentum: float = 0.0,
) -> MatchingGradient:
    """Gradient of the matching loss by images, labels (where they are floats) and step size (a scalar).

    The student goes from `start` by v <- momentum v + g, w <- w - step_size v for `steps` steps; the loss is
    the sum over targets of factor * ||w_step - target||^2 / ||start - target||^2. Exact; holds one step's
    graph and `steps` + 1 weight vectors (adjoint.py).
    """
    student = Student(step_loss, images, labels, step_size, momentum)
    path, last = student.run(start, steps)
    reached = {target.step: path[target.step].detach().requires_grad_() for target in targets}
    loss = matching_loss(reached, start, targets)
    partials = torch.autograd.grad(loss, list(reached.values()))
    found = student.pull_back(path, last, dict(zip(reached, partials, strict=True)))
    return MatchingGradient(loss.detach(), found.images, found.step_size, found.labels)


def matching_loss(path: Mapping[int, Tensor], start: Tensor, targets: Sequence[Target]) -> Tensor:
    """The sum over targets of factor * relative distance, from the weights (P,) at their steps."""
    terms = [
        target.factor * relative_distance(path[target.step], start, target.weights) for target in targets
    ]
    return torch.stack(terms).sum()


def relative_distance(weights: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """||weights - target||^2 / ||start - target||^2: 1 for a student that has not moved, 0 at the target."""
    return (weights - target).square().sum() / (start - target).square().sum()


def matching_targets(snapshots: Tensor, steps: int, intermediate: Intermediate = "none") -> list[Target]:
    """Targets for the snapshots (M, P) that follow the start, one expert epoch apart.

    The last one counts 1 at the last step; with `intermediate` snapshot k < M stands at step (steps // M) k
    and counts 1 ("equal") or k / M ("adaptive"), as in AST.
    """
    epochs = len(snapshots)
    final = Target(steps, snapshots[-1])
    if intermediate == "none":
        return [final]
    factors = [k / epochs if intermediate == "adaptive" else 1.0 for k in range(1, epochs)]
    between = [Target(steps // epochs * k, snapshots[k - 1], factors[k - 1]) for k in range(1, epochs)]
    return [*between, final]


def balance(start_epoch: int, max_start_epoch: int) -> float:
    """AST's factor b(t) on the loss; with h = T+ // 2, log_5(t-h+8) from h on, 1 / log_5(h-t+8) before."""
    half = max_start_epoch // 2
    if start_epoch >= half:
        return math.log(start_epoch - half + 8, 5)
    return 1 / math.log(half - start_epoch + 8, 5)


def perturb(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """AST's perturbation: W + d * W for each 4-D tensor, d normal with Frobenius norm 1; the rest as is."""
    return {
        name: _perturbed(value, generator) if value.ndim == 4 else value for name, value in weights.items()
    }


def _perturbed(value: Tensor, generator: torch.Generator) -> Tensor:
    direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return value + (direction / direction.norm()).to(value) * value


def student_batches(count: int, size: int | None, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Indices of the synthetic images in each of `steps` steps.

    All of them where `size` is None, else the pieces of one random permutation after another.
    """
    if size is None:
        return [torch.arange(count)] * steps
    chosen: list[Tensor] = []
    while len(chosen) < steps:
        chosen += torch.randperm(count, generator=generator).split(size)
    return chosen[:steps]
