import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.model_distillation.student_scores import Scores, binned, score

confidences = st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60)


def columns(pairs):
    confidence, right = zip(*pairs, strict=True)
    return torch.tensor(confidence, dtype=torch.float64), torch.tensor(right)


def test_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
    found = score(logits, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 0]))
    assert (found.accuracy, found.agreement) == (0.75, 0.5)
    losses = [math.log1p(math.exp(-margin)) for margin in (2.0, -1.0, 3.0, 0.5)]
    assert found.nll == pytest.approx(sum(losses) / 4)


@given(confidences)
def test_calibration_error_is_the_mean_gap_over_the_samples(pairs):
    confidence, right = columns(pairs)
    gaps = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gaps += float((confidence[inside] - right[inside].double()).sum().abs())
    assert binned(confidence, right).calibration_error == pytest.approx(gaps / len(pairs), abs=1e-9)


def test_a_calibrated_classifier_has_no_error():
    confidence = torch.tensor([0.75] * 4)
    found = binned(confidence, torch.tensor([True, True, True, False]))
    assert found.calibration_error == pytest.approx(0)
    assert (sum(found.count), found.count[11]) == (4, 4)


def test_a_sure_classifier_is_in_the_last_bin():
    found = binned(torch.ones(3), torch.tensor([True, False, False]))
    assert found.count[-1] == 3
    assert found.calibration_error == pytest.approx(2 / 3)


def test_goes_through_json():
    found = score(torch.eye(3), torch.arange(3))
    assert found.agreement is None
    assert set(found.named()) == {"accuracy", "nll", "ece"}
    assert Scores.from_json(found.to_json()) == found
