"""One expert's training: SGD on a flat weight vector, with the smoothing of AST as options.

Sources: MTT (Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories") and AST
(Shen, Yang, Lam 2023, arXiv 2310.10541); the formulas follow the authors' code.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Model = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[Tensor, int, Tensor], Tensor]
"""loss(weights (P,), number of the batch, indices of its images)."""


def loss_scale(epoch: int) -> float:
    """AST's clipping coefficient c_e: .50, .55 ... .95 in epochs 0 to 9, then 1."""
    return 0.5 + 0.05 * epoch if epoch < 10 else 1.0


def gradient_penalty(model: Model, weights: Tensor, images: Tensor) -> Tensor:
    """AST's penalty 2 mean_(batch,H,W) (||v||_2 - 1)^2, a scalar differentiable in the weights.

    v is the gradient of the sum of all logits by the images (N,C,H,W); its norm is over the channels.
    """
    images = images.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(weights, images).sum(), images, create_graph=True)
    return 2 * (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()


def expert_loss(
    model: Model,
    weights: Tensor,
    images: Tensor,
    augmented: Tensor,
    labels: Tensor,
    *,
    scale: float = 1.0,
    penalty: float = 0.0,
) -> Tensor:
    """scale * cross entropy on the augmented images + penalty * gradient penalty on the plain ones."""
    loss = scale * functional.cross_entropy(model(weights, augmented), labels)
    return loss + penalty * gradient_penalty(model, weights, images) if penalty else loss


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


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """A random permutation of 0..count-1 in pieces of `size`, the last one perhaps smaller."""
    return iter(torch.randperm(count, generator=generator).split(size))


def train_epoch(
    loss: Loss, weights: Tensor, velocity: Tensor, optimizer: Optimizer, order: Iterator[Tensor]
) -> float:
    """One pass over `order`, changing weights and velocity (P,) in place; the mean loss of its batches."""
    losses = []
    for number, indices in enumerate(order):
        variable = weights.detach().requires_grad_()
        value = loss(variable, number, indices)
        (gradient,) = torch.autograd.grad(value, variable)
        optimizer.step(weights, velocity, gradient)
        losses.append(value.detach())
    return float(torch.stack(losses).mean())
