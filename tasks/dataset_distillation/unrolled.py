"""The matching gradient by plain double backward, graph upon graph: what the adjoint is checked against."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.dataset_distillation.adjoint import StepLoss
from tasks.dataset_distillation.matching import MatchingGradient, Target, matching_loss


def unrolled_gradient(
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
    """`matching_gradient` in the memory of `steps` graphs: all steps are kept, then differentiated at once."""
    learned = [images, step_size] + ([labels] if labels.is_floating_point() else [])
    learned = [tensor.detach().requires_grad_() for tensor in learned]
    labels = learned[2] if labels.is_floating_point() else labels
    weights = start.detach().requires_grad_()
    path, velocity = {0: weights}, torch.zeros_like(start)
    for step in range(steps):
        value = step_loss(step, weights, learned[0], labels)
        (gradient,) = torch.autograd.grad(value, weights, create_graph=True)
        velocity = momentum * velocity + gradient if momentum else gradient
        weights = path[step + 1] = weights - learned[1] * velocity
    loss = matching_loss(path, start, targets)
    gradients = torch.autograd.grad(loss, learned)
    return MatchingGradient(
        loss.detach(), gradients[0], gradients[1], gradients[2] if len(learned) == 3 else None
    )
