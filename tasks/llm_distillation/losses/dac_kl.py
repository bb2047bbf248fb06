"""DAC-KL: a KL on the teacher's high-density classes, which a learned gate finds at each position.

Source: MGSR (ACL 2026). Its equations were not at hand: everything here beyond "a small network finds an upper and
a lower quantile for each position, the teacher is clipped to the band between, the loss trains both" is a
reconstruction, and a field of `DacKl` says so.
"""

import torch
from torch import Tensor, nn

from tasks.llm_distillation.losses.chunked import TOTAL, Collected
from tasks.llm_distillation.losses.dac_config import DacKl
from tasks.llm_distillation.losses.teachers import scaled

START = (0.01, 0.99)
"""Lower and upper quantile of a fresh gate, which clips almost nothing."""
GUARD_LOWER, GUARD_UPPER = 0.5, 0.9
TINY = 1e-30
DAC_KL, KEPT_MASS, KEPT_CLASSES = "dac_kl", "dac_kept_mass", "dac_kept_classes"


class Gate(nn.Module):
    """Features of a position (R, 2 top + 4) to its lower and upper quantile, (R,) each; lower < upper."""

    def __init__(self, config: DacKl) -> None:
        super().__init__()
        self.inner = nn.Linear(2 * config.top + 4, config.hidden)
        self.outer = nn.Linear(config.hidden, 2)
        nn.init.zeros_(self.outer.weight)
        lower, upper = START
        share = torch.tensor([lower / upper, upper])
        self.outer.bias.data.copy_(share.logit())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The lower quantile is a share of the upper one, so that it stays below."""
        found = self.outer(nn.functional.gelu(self.inner(features))).sigmoid()
        return found[:, 0] * found[:, 1], found[:, 1]


def dac_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, config: DacKl, gate: Gate | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss summed over R positions, guard included, from logits (R, V) and labels (R,); differentiable.

    Also, for the record, sums over positions: the KL alone, the teacher's mass within the band, the classes in it.
    """
    log_p = torch.log_softmax(scaled(teacher, config.temperature), -1)
    log_q = torch.log_softmax(scaled(student, config.temperature), -1)
    lower, upper = quantiles(log_p, log_q.detach(), config, gate)
    mask = band_mask(log_p, lower, upper, labels, config)
    kept = (mask * log_p.exp()).sum(-1)
    value = masked_kl(log_p, log_q, mask, config).sum()
    total = value
    if gate is not None and config.guard == "hinge":
        total = total + config.guard_weight * (config.min_mass - kept).clamp_min(0).sum()
    record = {DAC_KL: value, KEPT_MASS: kept.sum(), KEPT_CLASSES: mask.sum()}
    return total, {name: one.detach() for name, one in record.items()}


def quantiles(log_p: Tensor, log_q: Tensor, config: DacKl, gate: Gate | None) -> tuple[Tensor, Tensor]:
    """Lower and upper quantile of each position (R,): the fixed band, or what the gate finds."""
    if config.band is not None:
        return tuple(log_p.new_full(log_p.shape[:1], level) for level in config.band)
    assert gate is not None
    lower, upper = gate(features(log_p, log_q, config.top).to(gate.inner.weight.dtype))
    if config.guard == "clamp":
        lower, upper = lower.clamp_max(GUARD_LOWER), upper.clamp_min(GUARD_UPPER)
    return lower.to(log_p.dtype), upper.to(log_p.dtype)


def features(log_p: Tensor, log_q: Tensor, top: int) -> Tensor:
    """(R, 2 top + 4): the teacher's top probabilities, the student's of these, both entropies, both maxima."""
    p, q = log_p.exp(), log_q.exp()
    best = p.topk(min(top, p.shape[-1]), dim=-1)
    short = (0, top - best.values.shape[-1])
    pad = nn.functional.pad
    entropies = [-(one * log.clamp_min(-1e30)).sum(-1, keepdim=True) for one, log in ((p, log_p), (q, log_q))]
    greatest = [p.amax(-1, keepdim=True), q.amax(-1, keepdim=True)]
    return torch.cat(
        [pad(best.values, short), pad(q.gather(-1, best.indices), short), *entropies, *greatest], -1
    )


def band_mask(log_p: Tensor, lower: Tensor, upper: Tensor, labels: Tensor, config: DacKl) -> Tensor:
    """How far each class is in the band (R, V), 0 to 1; 1 for the label and the teacher's likeliest class."""
    ascending = log_p.sort(-1).values
    weights = ascending.exp() if config.quantile == "mass" else torch.ones_like(ascending)
    reached = weights.cumsum(-1)
    reached = reached / reached[:, -1:]
    low, high = threshold(ascending, reached, lower), threshold(ascending, reached, upper)
    mask = ((log_p - low[:, None]) / config.softness).sigmoid()
    mask = mask * ((high[:, None] - log_p) / config.softness).sigmoid()
    if config.mask == "hard":
        inside = (log_p >= low[:, None]) & (log_p <= high[:, None])
        mask = inside.to(mask) + (mask - mask.detach())
    always = torch.stack([labels, log_p.argmax(-1)], -1)
    return mask.scatter(-1, always, 1.0)


def threshold(ascending: Tensor, reached: Tensor, level: Tensor) -> Tensor:
    """The log-probability (R,) at a quantile, linear between classes; without bound at 0 and at 1.

    `ascending` (R, V) are sorted log-probabilities, `reached` the share that each and those below make up.
    """
    at = torch.searchsorted(reached.detach(), level.detach()[:, None].contiguous()).clamp(
        1, reached.shape[-1] - 1
    )
    (x0, x1), (y0, y1) = (
        [values.gather(-1, at - back)[:, 0] for back in (1, 0)] for values in (reached, ascending)
    )
    part = ((level - x0) / (x1 - x0).clamp_min(TINY)).clamp(0, 1)
    found = y0 + part * (y1 - y0)
    found = torch.where(level <= 0, -torch.inf, found)
    return torch.where(level >= 1, torch.inf, found)


def masked_kl(log_p: Tensor, log_q: Tensor, mask: Tensor, config: DacKl) -> Tensor:
    """KL (R,) of teacher to student within the mask."""
    log_mask = mask.clamp_min(TINY).log()
    inside_p, inside_q = log_p + log_mask, log_q + log_mask
    if config.student == "renormalised":
        inside_p, inside_q = inside_p.log_softmax(-1), inside_q.log_softmax(-1)
        return (inside_p.exp() * (inside_p - inside_q)).sum(-1)
    outside = [(1 - one.exp().sum(-1)).clamp_min(TINY) for one in (inside_p, inside_q)]
    rest = outside[0] * (outside[0].log() - outside[1].log())
    return (inside_p.exp() * (inside_p - inside_q)).sum(-1) + rest


class DacRows:
    """DAC-KL as one more term of the mixture: its gradient by a block's logits, the gate's collected on the way."""

    def __init__(self, config: DacKl, gate: Gate | None, kd_weight: float) -> None:
        if (gate is None) != (config.band is not None):
            raise ValueError(
                "dac_kl needs either a fixed band or a gate; give the student's Gate, or set band"
            )
        self.config, self.gate, self.scale = config, gate, kd_weight * config.weight
        parameters = [] if gate is None else list(gate.parameters())
        self.collected = [Collected(one, torch.zeros_like(one)) for one in parameters]

    def __call__(self, logits: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient (R, V) and the sums, `TOTAL` among them."""
        leaf = logits.detach().requires_grad_()
        with torch.enable_grad():
            total, sums = dac_kl(leaf, teacher, labels, self.config, self.gate)
            total = self.scale * total
            found = torch.autograd.grad(total, [leaf, *(one.parameter for one in self.collected)])
        for one, more in zip(self.collected, found[1:], strict=True):
            one.gradient.add_(more)
        return found[0], {**sums, TOTAL: total.detach()}
