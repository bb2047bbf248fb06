"""The training of an expert, or of a stack of them as one program: SGD on flat weight vectors, with the
smoothing of AST as options. Every value of a stack has the axis of its members in front.

Sources: MTT (Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories") and AST
(Shen, Yang, Lam 2023, arXiv 2310.10541); the formulas follow the authors' code.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Model = Callable[[Tensor, Tensor], Tensor]
"""(weights (*S, P), images (*S,N,C,H,W)) to logits (*S,N,K), S being nothing or the number of experts."""


class Batch(NamedTuple):
    """One step's data; of a stack, each member's own."""

    images: Tensor
    """(*S,N,C,H,W)"""
    augmented: Tensor
    """The same, augmented."""
    labels: Tensor
    """(*S,N)"""


def loss_scale(epoch: int) -> float:
    """AST's clipping coefficient c_e: .50, .55 ... .95 in epochs 0 to 9, then 1."""
    return 0.5 + 0.05 * epoch if epoch < 10 else 1.0


def gradient_penalty(model: Model, weights: Tensor, images: Tensor) -> Tensor:
    """AST's penalty 2 mean_(batch,H,W) (||v||_2 - 1)^2, (*S,), differentiable in the weights.

    v is the gradient of the sum of all logits by the images; its norm is over the channels.
    """
    images = images.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(weights, images).sum(), images, create_graph=True)
    return 2 * (torch.linalg.vector_norm(slope, dim=-3) - 1).square().mean((-3, -2, -1))


def expert_loss(
    model: Model, weights: Tensor, batch: Batch, *, scale: float = 1.0, penalty: float = 0.0
) -> Tensor:
    """scale * cross entropy on the augmented images + penalty * gradient penalty on the plain ones, (*S,)."""
    logits = model(weights, batch.augmented)
    each = functional.cross_entropy(logits.flatten(0, -2), batch.labels.flatten(), reduction="none")
    loss = scale * each.view(batch.labels.shape).mean(-1)
    return loss + penalty * gradient_penalty(model, weights, batch.images) if penalty else loss


def learning_rate(epoch: int, *, lr: float, decay: float, epochs: int) -> float:
    """lr up to and with epoch index E//2+1, lr * decay after it."""
    return lr * decay if epoch > epochs // 2 + 1 else lr


def restarts(epoch: int, *, decay: float, epochs: int) -> bool:
    """Whether the momentum starts anew before this epoch, as it does where the learning rate drops."""
    return decay != 1 and epoch == epochs // 2 + 2


@dataclass(frozen=True)
class Optimizer:
    """SGD as torch.optim.SGD does it (no Nesterov), on flat vectors."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def step(self, weights: Tensor, velocity: Tensor, gradient: Tensor) -> None:
        """v <- momentum v + gradient + weight_decay w; w <- w - lr v. In place."""
        velocity.mul_(self.momentum).add_(gradient).add_(weights, alpha=self.weight_decay)
        weights.sub_(velocity, alpha=self.lr)


def train_epoch(
    loss: Callable[[Tensor, Batch], Tensor],
    weights: Tensor,
    velocity: Tensor,
    optimizer: Optimizer,
    batches: Iterable[Batch],
) -> Tensor:
    """One step a batch, changing weights and velocity (*S, P) in place; the mean loss of the batches, (*S,)."""
    losses = []
    for batch in batches:
        variable = weights.detach().requires_grad_()
        value = loss(variable, batch)
        (gradient,) = torch.autograd.grad(value.sum(), variable)
        optimizer.step(weights, velocity, gradient)
        losses.append(value.detach())
    return torch.stack(losses).mean(0)
