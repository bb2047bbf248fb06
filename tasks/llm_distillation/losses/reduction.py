"""From sums over tokens to the mean over all valid tokens of a step, whatever the split over devices."""

from torch import Tensor


def mean_over_tokens(total: Tensor, tokens: int, averaged_over: int = 1) -> Tensor:
    """The part of one micro-batch in the mean over the `tokens` valid tokens of a whole optimiser step.

    `total`: the sum of this micro-batch. `tokens`: valid tokens of all micro-batches of all ranks, which the caller
    counted from the labels and added up over the ranks before. `averaged_over`: by how much the trainer divides
    gradients after this: ranks that average theirs, times accumulation steps where it divides by those. The
    gradients of all parts together are then those of the mean, also with unequal parts. ValueError without tokens.
    """
    if tokens < 1:
        raise ValueError("the step has no valid token; leave it out, or look at how the labels are masked")
    return total * (averaged_over / tokens)
