import pytest
import torch
from pydantic import ValidationError

from tasks.llm_distillation.losses import DacKl, DenseTeacher, Divergence, Gate, Mixture, distillation_loss
from tasks.llm_distillation.losses.dac_kl import band_mask, dac_kl

WIDE = torch.float64
TIGHT = {"rtol": 1e-9, "atol": 1e-10}


def gate_of(config, seed=0):
    """One that differs between positions."""
    torch.manual_seed(seed)
    gate = Gate(config).double()
    torch.nn.init.normal_(gate.outer.weight, std=0.5)
    return gate


def loss(case, config, gate, teacher=None, **more):
    mixture = Mixture(dac_kl=config, **more)
    teacher = case.teacher if teacher is None else teacher
    return distillation_loss(
        case.hidden, case.head, case.labels, mixture, teacher, gate=gate, vocabulary=40, budget_mb=0.004
    )


def test_the_whole_band_is_forward_kl(case):
    found = loss(case, DacKl(band=(0.0, 1.0), temperature=2.0), None)
    expected = case.plain(Mixture(divergences=(Divergence(name="forward_kl", temperature=2.0),)))
    torch.testing.assert_close(found.total, expected, **TIGHT)
    for mine, theirs in zip(case.gradients(found.total), case.gradients(expected), strict=True):
        torch.testing.assert_close(mine, theirs, **TIGHT)


CONFIGS = [
    DacKl(guard_weight=0.7, min_mass=0.99),
    DacKl(student="bucket", guard="none"),
    DacKl(quantile="count", softness=0.2, guard="clamp"),
    DacKl(top=64, temperature=1.5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_in_chunks_it_is_what_the_plain_way_finds(case, config):
    gate = gate_of(config)
    found = loss(case, config, gate, cross_entropy=0.3)
    student, teacher = case.logits()
    expected = dac_kl(student, teacher, case.labels[case.valid], config, gate)[0] + case.plain(
        Mixture(cross_entropy=0.3)
    )
    torch.testing.assert_close(found.total, expected, **TIGHT)
    inputs = (case.hidden, case.head, *gate.parameters())
    mine, theirs = (torch.autograd.grad(one, inputs, allow_unused=True) for one in (found.total, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, **TIGHT)


def test_gradients_by_the_gate_are_those_of_finite_differences(case):
    config = DacKl(min_mass=0.99)
    gate = gate_of(config)
    student, teacher = (one.detach() for one in case.logits())

    def of(bias):
        return torch.func.functional_call(
            Whole(gate, student, teacher, case.labels[case.valid], config), {"gate.outer.bias": bias}, ()
        )

    assert torch.autograd.gradcheck(of, (gate.outer.bias.detach().clone().requires_grad_(),), atol=1e-4)


class Whole(torch.nn.Module):
    def __init__(self, gate, *problem):
        super().__init__()
        self.gate, self.problem = gate, problem

    def forward(self):
        return dac_kl(*self.problem, self.gate)[0]


@pytest.mark.parametrize("config", [DacKl(), DacKl(mask="hard"), DacKl(student="bucket")], ids=str)
def test_is_zero_between_equals(case, config):
    same = DenseTeacher(case.hidden.detach(), case.head.detach())
    found = loss(case, config, gate_of(config), teacher=same)
    assert abs(float(found.terms["dac_kl"])) < 1e-10


def test_a_fresh_gate_clips_almost_nothing(case):
    config = DacKl()
    found = loss(case, config, Gate(config).double())
    assert float(found.terms["dac_kept_mass"]) / found.tokens > 0.8
    assert float(found.terms["dac_kept_classes"]) / found.tokens < 40


def test_a_band_of_one_class_leaves_nothing_and_the_guard_sees_it(case):
    """The gate could make the loss 0 by keeping one class alone."""
    student, teacher = case.logits()
    labels = teacher.argmax(-1)
    config = DacKl(softness=1e-3, min_mass=0.95)
    gate = Gate(config).double()
    torch.nn.init.constant_(gate.outer.bias, 30.0)
    total, record = dac_kl(student, teacher, labels, config, gate)
    assert float(record["dac_kl"]) < 1e-6
    assert float(record["dac_kept_classes"]) == pytest.approx(len(labels), abs=0.1 * len(labels))
    short = (0.95 - teacher.softmax(-1).amax(-1)).clamp_min(0).sum()
    assert float((total - record["dac_kl"]).detach()) == pytest.approx(float(short), rel=0.05)
    clamped = dac_kl(student, teacher, labels, DacKl(softness=1e-3, guard="clamp"), gate)[1]
    assert float(clamped["dac_kept_mass"]) / len(labels) >= 0.45


def test_the_guard_keeps_a_learning_gate_from_collapse(case):
    """Trained alone to lower the loss, the gate keeps more than half of the mass, and not every class."""
    student, teacher = (one.detach() for one in case.logits())
    kept = {}
    for guard in ("hinge", "none"):
        config = DacKl(guard=guard, guard_weight=10.0, min_mass=0.6, softness=0.2)
        gate = gate_of(config)
        optimiser = torch.optim.Adam(gate.parameters(), lr=0.05)
        for _ in range(80):
            optimiser.zero_grad()
            total, record = dac_kl(student, teacher, teacher.argmax(-1), config, gate)
            total.backward()
            optimiser.step()
        kept[guard] = float(record["dac_kept_mass"]) / len(student)
        assert float(record["dac_kept_classes"]) / len(student) < 35
    assert kept["hinge"] > 0.55
    assert kept["hinge"] > kept["none"] + 0.05


def test_label_and_likeliest_class_are_always_kept(case):
    _, teacher = case.logits()
    log_p, labels = teacher.log_softmax(-1), case.labels[case.valid]
    level = torch.full((len(labels),), 0.4, dtype=WIDE)
    mask = band_mask(log_p, level, level + 0.1, labels, DacKl(mask="hard"))
    assert mask.gather(-1, labels[:, None]).eq(1).all()
    assert mask.gather(-1, log_p.argmax(-1, keepdim=True)).eq(1).all()
    assert set(mask.detach().unique().tolist()) == {0.0, 1.0}


def test_what_cannot_be_is_refused(case):
    with pytest.raises(ValidationError, match="0 <= lower < upper"):
        DacKl(band=(0.5, 0.5))
    with pytest.raises(ValueError, match="either a fixed band or a gate"):
        loss(case, DacKl(), None)
