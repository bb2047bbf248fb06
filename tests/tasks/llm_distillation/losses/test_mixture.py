import pytest
from pydantic import ValidationError

from tasks.llm_distillation.losses import Divergence, Mixture

FORWARD = Divergence(name="forward_kl")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Divergence(name="forward_kl", beta=0.3), "forward_kl has no beta"),
        (lambda: Divergence(name="jsd", lam=0.3, alpha=0.1), "jsd has no alpha, lam"),
        (lambda: Divergence(name="jsd", beta=1.5), "less than or equal to 1"),
        (lambda: Divergence(name="tvd", temperature=0.0), "greater than 0"),
        (lambda: Mixture(), "nothing to learn from"),
        (lambda: Mixture(divergences=(FORWARD, FORWARD)), "forward_kl stands there twice"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_defaults_of_lam():
    assert Divergence(name="skew_kl").share == Divergence(name="skew_reverse_kl").share == 0.1
    assert Divergence(name="symmetric_kl").share == 0.9
    assert Divergence(name="symmetric_kl", lam=0.0).share == 0.0


def test_the_teachers_weight_warms_up_in_a_line():
    mixture = Mixture(divergences=(FORWARD,), warmup_steps=4)
    assert [mixture.kd_weight(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert Mixture(divergences=(FORWARD,)).kd_weight(0) == 1.0


def test_cross_entropy_alone_needs_no_teacher():
    assert not Mixture(cross_entropy=1.0).needs_teacher
    assert Mixture(divergences=(FORWARD,)).needs_teacher
