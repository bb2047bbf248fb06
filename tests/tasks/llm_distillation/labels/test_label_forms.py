import numpy as np
import pytest
import torch

from tasks.llm_distillation.labels.label_forms import TokenLabels, take, teacher_of, uniforms
from tasks.llm_distillation.labels.label_loss import Truth, kept, spread
from tasks.llm_distillation.labels.level_scale import COARSEST, from_levels
from tasks.llm_distillation.losses.teachers import SampledTeacher, TopKTeacher

NONE = np.zeros((0, 0))


def distributions(positions=40, vocabulary=60, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(positions, vocabulary, generator=generator), 1)


def dense(read, vocabulary):
    """What is read back, over the whole vocabulary: the tail spread evenly."""
    others = vocabulary - read.ids.shape[1]
    made = (read.tail / max(others, 1))[:, None].repeat(1, vocabulary).double()
    return made.scatter(1, read.ids, read.log_probs.double().exp())


@pytest.mark.parametrize("k", [1, 8, 40, 60])
def test_top_k_keeps_ids_exactly_values_within_half_a_step_and_sums_to_one(k):
    logprobs, labels = distributions(), TokenLabels(k=k, step=0.01)
    taken = take(logprobs, labels, NONE)
    read = teacher_of(taken.sets, labels)
    assert isinstance(read, TopKTeacher)
    values, ids = logprobs.topk(k, 1)
    torch.testing.assert_close(read.ids, ids)
    torch.testing.assert_close(
        read.log_probs.exp().sum(1) + read.tail, torch.ones(len(ids)), atol=1e-5, rtol=0
    )
    before = torch.from_numpy(from_levels(taken.sets.levels, 0.01))
    half = 0.5 * (0.01 * (-torch.minimum(values, before) / 2).exp()).clamp_max(COARSEST)
    assert ((before - values).abs() <= 1.001 * half + 1e-5).all()
    scaled = read.log_probs - before
    torch.testing.assert_close(scaled, scaled[:, :1].expand_as(scaled))


@pytest.mark.parametrize("k", [1, 8, 40, 60])
def test_the_loss_is_the_divergence_over_the_whole_vocabulary(k):
    logprobs, labels = distributions(), TokenLabels(k=k, step=0.05)
    taken = take(logprobs, labels, NONE)
    read = dense(teacher_of(taken.sets, labels), logprobs.shape[1])
    p = logprobs.double().exp()
    whole = torch.where(p > 0, p * (logprobs.double() - read.log()), 0).sum(1)
    assert sum(taken.lost) == pytest.approx(float(whole.sum()), rel=1e-4, abs=1e-6)


def test_what_packing_loses_follows_the_step():
    logprobs = distributions(positions=300, vocabulary=200)
    for step in (0.006, 0.02):
        lost, _ = take(logprobs, TokenLabels(k=100, step=step), NONE).lost
        assert lost / 300 <= 1.2 * 101 * step**2 / 24


def test_nothing_is_lost_where_all_is_read_back():
    truth = Truth(distributions().double().numpy(), np.zeros(40), 60)
    assert np.abs(kept(truth, truth.logprobs, np.full(40, -np.inf))).max() < 1e-6
    assert not spread(truth).any()


def test_logits_need_not_be_normalised():
    logprobs, labels = distributions(), TokenLabels(k=8)
    one, other = take(logprobs, labels, NONE), take(logprobs + 30, labels, NONE)
    np.testing.assert_array_equal(one.sets.ids, other.sets.ids)
    assert np.abs(one.sets.levels - other.sets.levels).max() <= 1
    assert one.lost == pytest.approx(other.lost, rel=0.1)


def test_full_is_float16():
    logprobs = distributions()
    taken = take(logprobs, TokenLabels(form="full"), NONE)
    np.testing.assert_array_equal(taken.rows, logprobs.half().numpy())
    assert 0 <= taken.lost[0] / 40 < 1e-5
    assert taken.lost[1] == 0


def test_drawn_tokens_are_unbiased():
    """The mean over many draws of count / samples is the teacher's probability, within 5 standard errors."""
    logprobs, labels, trials = (
        distributions(positions=3, vocabulary=12, scale=1.5),
        TokenLabels(form="sampled", samples=7),
        4000,
    )
    p = logprobs.double().exp().numpy()
    many = logprobs.repeat(trials, 1)
    drawn = uniforms(5, 0, np.arange(3 * trials), labels)
    read = teacher_of(take(many, labels, drawn).sets, labels)
    assert isinstance(read, SampledTeacher)
    assert (read.counts.sum(1) == 7).all()
    share = torch.zeros(3 * trials, 12).scatter_add(1, read.ids, read.counts.float() / 7)
    mean = share.reshape(trials, 3, 12).mean(0).double().numpy()
    error = np.sqrt(p * (1 - p) / (7 * trials))
    assert (np.abs(mean - p) < 5 * error).all()


def test_draws_depend_on_seed_sequence_and_position_alone():
    labels = TokenLabels(form="sampled", samples=10)
    whole = uniforms(1, 3, np.arange(20), labels)
    assert whole.shape == (20, 10)
    np.testing.assert_array_equal(uniforms(1, 3, np.array([7, 4]), labels), whole[[7, 4]])
    for other in (uniforms(2, 3, np.arange(20), labels), uniforms(1, 4, np.arange(20), labels)):
        assert (other != whole).mean() > 0.99
