"""Losses of the margin s = y f(x), each by its derivative, which is all that gradient descent sees.

One table maps the names to them. Every function takes margins of any shape.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from torch import Tensor

LossName = Literal["ensloss", "bce", "hinge", "exponential", "focal"]
GAMMA = 2.0
"""Of the focal loss."""
EXPONENTIAL_NORM = 10.0
"""To which the author's code clips the norm of the exponential loss's gradient, and only of that."""


def bce(margins: Tensor) -> Tensor:
    """Of log(1 + exp(-s)), binary cross entropy."""
    return -(-margins).sigmoid()


def hinge(margins: Tensor) -> Tensor:
    """Of max(0, 1 - s); 0 at s = 1, as torch has it."""
    return -(margins < 1).to(margins)


def exponential(margins: Tensor) -> Tensor:
    """Of exp(-s)."""
    return -(-margins).exp()


def focal(margins: Tensor) -> Tensor:
    """Of (1 - p)^gamma * -log p with p = sigmoid(s) and gamma 2 (Lin et al. 2017), without alpha."""
    p, q = margins.sigmoid(), (-margins).sigmoid()
    log_p = -(-margins).logaddexp(margins.new_zeros(()))
    return GAMMA * p * q**GAMMA * log_p - q ** (GAMMA + 1)


DERIVATIVES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"bce": bce, "hinge": hinge, "exponential": exponential, "focal": focal}
)
"""All but EnsLoss, whose derivatives are drawn."""
