"""A student's SGD run forwards, then backwards: exact gradients that hold the graph of one step.

The textbook discrete adjoint (reverse accumulation) of SGD with momentum, recomputing each step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

StepLoss = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""loss(n, weights (P,), images, labels) of the student's step n; pure, so that a step can be repeated."""


@dataclass(frozen=True)
class Gradients:
    """Of a scalar L, shaped as what they are by; `labels` is None for hard labels."""

    images: Tensor
    step_size: Tensor
    labels: Tensor | None


class Opened(NamedTuple):
    """A step's weights w_n as a leaf (P,), and g_n there, with or without its graph."""

    weights: Tensor
    gradient: Tensor


class Student:
    """SGD with momentum m and step size a on images and labels, which are the same in all steps.

    With g_n = dl_n/dw at w_n:  v_n+1 = m v_n + g_n (v_0 = 0),  w_n+1 = w_n - a v_n+1. For a scalar L of the
    weights w_1..w_N, let d_n be its partial derivative by w_n alone, p_n the total one (p_N = d_N), and
    -a q_n the total one by v_n (q_N+1 = 0). Both equations, differentiated from the last step to the first:

        q_n+1 = m q_n+2 + p_n+1
        p_n   = p_n+1 - a d<g_n, q_n+1>/dw + d_n
        dL/dx = -a sum_n d<g_n, q_n+1>/dx        for x the images, and the labels where they are floats
        dL/da = -sum_n <v_n+1, p_n+1> = -sum_n <g_n, q_n+1>        (v_n+1 written out, sums exchanged)

    One double backward through step n gives both derivatives of <g_n, q_n+1>. The last form of dL/da spares
    the v_n, so with momentum too the weights w_0..w_N are all that is kept of the way there.
    """

    def __init__(
        self, step_loss: StepLoss, images: Tensor, labels: Tensor, step_size: Tensor, momentum: float
    ) -> None:
        self.step_loss, self.step_size, self.momentum = step_loss, step_size.detach(), momentum
        self.images = images.detach().requires_grad_()
        self.labels = labels.detach().requires_grad_(labels.is_floating_point())
        self.learned = [self.images, self.labels] if self.labels.requires_grad else [self.images]

    def run(self, start: Tensor, steps: int) -> tuple[Tensor, Opened | None]:
        """The weights w_0 = `start` .. w_steps, (steps + 1, P); and the last step, whose graph is kept."""
        path = start.new_empty(steps + 1, len(start))  # one block: vectors apart would fragment the heap
        path[0] = start.detach()
        velocity, opened = torch.zeros_like(path[0]), None
        for step in range(steps):
            opened = self._open(step, path[step], graph=step == steps - 1)
            velocity.mul_(self.momentum).add_(opened.gradient.detach())
            torch.sub(path[step], self.step_size * velocity, out=path[step + 1])
        return path, opened

    def pull_back(self, path: Tensor, opened: Opened | None, partials: Mapping[int, Tensor]) -> Gradients:
        """The gradients of L, from what `run` returned and the d_n (P,) that are not zero."""
        by_step_size, by_learned = torch.zeros_like(self.step_size), [*map(torch.zeros_like, self.learned)]
        by_weights, carried = torch.zeros_like(path[0]), torch.zeros_like(path[0])
        for step in reversed(range(len(path) - 1)):
            if step + 1 in partials:
                by_weights += partials[step + 1]
            carried.mul_(self.momentum).add_(by_weights)
            opened = opened or self._open(step, path[step], graph=True)
            by_step_size -= opened.gradient.detach() @ carried
            found = self._derivatives(opened, -self.step_size * carried, with_weights=step > 0)
            for total, part in zip([*by_learned, by_weights], found, strict=False):
                total += part
            opened = None
        return Gradients(by_learned[0], by_step_size, by_learned[1] if len(by_learned) == 2 else None)

    def _derivatives(self, opened: Opened, along: Tensor, *, with_weights: bool) -> tuple[Tensor, ...]:
        """Of <g, along> by images, soft labels and weights; the graph ends here."""
        leaves = [*self.learned, opened.weights] if with_weights else self.learned
        return torch.autograd.grad(opened.gradient, leaves, along)

    def _open(self, step: int, weights: Tensor, *, graph: bool) -> Opened:
        leaf = weights.clone().requires_grad_()  # a graph must not see the path written on
        loss = self.step_loss(step, leaf, self.images, self.labels)
        return Opened(leaf, torch.autograd.grad(loss, leaf, create_graph=graph)[0])
