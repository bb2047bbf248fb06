"""A network as a function of one flat weight vector, the form in which trajectories are compared."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FlatModel:
    """Runs `module` under weights given as one vector: logits = model(weights, images).

    The vector holds the parameters one after another in the order of `module.named_parameters()`.
    ValueError for a network with buffers (batch norm): what it learns lies partly outside its weights.
    """

    def __init__(self, module: nn.Module) -> None:
        buffers = [name for name, _ in module.named_buffers()]
        if buffers:
            raise ValueError(
                f"network: {buffers[0]!r} is state outside the weights, which a trajectory does not hold; "
                "choose a norm without running statistics, such as instance or group"
            )
        self.module = module
        self.shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
        self.sizes = [value.numel() for value in module.parameters()]

    @property
    def size(self) -> int:
        """Number of weights P."""
        return sum(self.sizes)

    def __call__(self, weights: Tensor, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N,C,H,W) under weights (P,); differentiable in both, twice."""
        logits: Tensor = torch.func.functional_call(self.module, self.unflatten(weights), (images,))
        return logits

    def stacked(self, weights: Tensor, images: Tensor) -> Tensor:
        """Logits (S, N, classes) of images (S,N,C,H,W), each of S members under its own weights (S,P).

        One program for all; a single member is computed as it is alone, to the bit.
        """
        if len(weights) == 1:
            return self(weights[0], images[0])[None]
        logits: Tensor = torch.func.vmap(self)(weights, images)
        return logits

    def initial(self) -> Tensor:
        """A copy of the module's own weights, (P,)."""
        return torch.cat([value.detach().reshape(-1) for value in self.module.parameters()])

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Named tensors (*lead, *shape), in any order of names, to vectors (*lead, P)."""
        lead = {name: tensors[name].ndim - len(shape) for name, shape in self.shapes.items()}
        return torch.cat(
            [
                tensors[name].flatten(lead[name]) if self.shapes[name] else tensors[name][..., None]
                for name in self.shapes
            ],
            dim=-1,
        )

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """Vectors (*lead, P) to named views (*lead, *shape)."""
        parts = weights.split(self.sizes, dim=-1)
        lead = weights.shape[:-1]
        return {
            name: part.reshape(*lead, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


@torch.no_grad()
def predict(model: FlatModel, weights: Tensor, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits (N, classes) of many images, computed `batch_size` at a time."""
    return torch.cat([model(weights, batch) for batch in images.split(batch_size)])


def accuracy(model: FlatModel, weights: Tensor, images: Tensor, labels: Tensor) -> float:
    """Share of images (N,C,H,W) whose largest logit is at their label (N,), between 0 and 1."""
    return float((predict(model, weights, images).argmax(dim=1) == labels).double().mean())
