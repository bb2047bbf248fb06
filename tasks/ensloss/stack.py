"""Networks of one shape as one program: S modules, whose weights lie stacked, score S batches at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class Stack:
    """S modules (N, ...) -> (N,) that differ in nothing but weights and running statistics.

    A single module runs as it is; several run under torch.func.vmap, each as it would alone but for rounding.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._module, self.size = modules[0], len(modules)
        if self.size == 1:
            self._weights = dict(self._module.named_parameters())
            self._buffers = dict(self._module.named_buffers())
        else:
            self._weights, self._buffers = stack_module_state(list(modules))

    @property
    def weights(self) -> list[Tensor]:
        """The leaves that are trained: (S, ...), of a single module without the first axis."""
        return list(self._weights.values())

    def __call__(self, inputs: Tensor) -> Tensor:
        """Scores (S, N) of inputs (S, N, ...); in training the running statistics follow."""
        if self.size == 1:
            scores: Tensor = self._module(inputs[0])
            return scores[None]
        stacked: Tensor = vmap(self._score)(self._weights, self._buffers, inputs)
        return stacked

    def _score(self, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        scores: Tensor = functional_call(self._module, (dict(weights), dict(buffers)), (inputs,))
        return scores

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Running statistics are used and stay as they are; no gradients."""
        self._module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._module.train()

    def state(self) -> dict[str, Tensor]:
        """Weights and running statistics on the CPU, by name."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self._named()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` returned."""
        with torch.no_grad():
            for name, value in self._named():
                value.copy_(state[name])

    def finite(self) -> list[bool]:
        """For each member, whether all of its weights are finite."""
        flat = torch.cat([value.detach().reshape(self.size, -1) for value in self.weights], 1)
        return [bool(member) for member in flat.isfinite().all(1)]

    def _named(self) -> list[tuple[str, Tensor]]:
        return [*self._weights.items(), *self._buffers.items()]
