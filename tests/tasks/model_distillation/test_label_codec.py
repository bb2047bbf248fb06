import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.model_distillation.label_codec import (
    Labels,
    check_labels,
    decode,
    encode,
    fault,
    id_type,
    kl_divergence,
    row_bytes,
)

EVERY = ("fp16", "bf16", "int8", {"precision": "top_k", "k": 2})


def drawn(seed, number, classes, spread):
    return torch.randn(number, classes, generator=torch.Generator().manual_seed(seed)) * spread


many_logits = st.builds(
    drawn, st.integers(0, 999), st.integers(1, 6), st.integers(3, 300), st.floats(0.1, 30)
)


def there_and_back(labels, logits):
    labels = Labels.model_validate(labels)
    return decode(labels, encode(labels, logits), logits.shape[1])


@given(many_logits)
def test_errors_are_those_of_the_number_format(logits):
    size = logits.abs().amax(1, keepdim=True)
    span = logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)
    for labels, bound in (("fp16", size * 2**-11), ("bf16", size * 2**-8), ("int8", span / 255 * 0.501)):
        found = there_and_back(labels, logits)
        assert found.dtype == torch.float32
        assert ((found - logits).abs() <= bound + 1e-6).all()


@given(many_logits, st.sampled_from(["fp16", "bf16", "int8"]))
def test_the_divergence_is_bounded_by_the_error(logits, labels):
    """Errors of at most e in each logit change the divergence by at most 2 e, and by about their variance / 2."""
    found = there_and_back(labels, logits)
    error = (found - logits).abs().amax(1).double()
    divergence = kl_divergence(logits, found, 1.0)
    assert (divergence >= 0).all()
    assert (divergence <= torch.minimum(2 * error, error**2 * (2 * error).exp()) + 1e-9).all()


@given(many_logits, st.integers(1, 2))
def test_top_k_keeps_the_largest_and_the_mass_of_the_rest(logits, k):
    true = logits.double().log_softmax(1).exp()
    found = there_and_back({"precision": "top_k", "k": k}, logits).double().exp()
    assert torch.allclose(found.sum(1), torch.ones(len(logits), dtype=torch.float64), atol=1e-5)
    values, ids = true.topk(k)
    tail_true, tail_found = 1 - values.sum(1), 1 - found.gather(1, ids).sum(1)
    assert torch.allclose(found.gather(1, ids), values, rtol=0.02, atol=1e-4)
    assert torch.allclose(tail_found, tail_true, rtol=0.02, atol=1e-4)
    rest = found.scatter(1, ids, torch.nan)
    assert torch.allclose(rest.nan_to_num(0).amax(1), rest.nan_to_num(1).amin(1))


def test_more_classes_kept_are_nearer():
    logits = drawn(0, 50, 20, 3.0)
    errors = [
        float(kl_divergence(logits, there_and_back({"precision": "top_k", "k": k}, logits), 1.0).mean())
        for k in (1, 3, 10, 19)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


@settings(max_examples=30)
@given(many_logits, st.floats(0.5, 8))
def test_the_divergence_is_the_textbooks(logits, temperature):
    other = logits.flip(0) * 0.9
    true, found = ((value.double() / temperature).log_softmax(1) for value in (logits, other))
    expected = torch.nn.functional.kl_div(found, true, reduction="none", log_target=True).sum(1)
    assert torch.allclose(kl_divergence(logits, other, temperature), expected.clamp(min=0), atol=1e-9)


@pytest.mark.parametrize("labels", EVERY)
@pytest.mark.parametrize("classes", [3, 256, 257])
def test_a_row_has_the_bytes_it_is_said_to_have(labels, classes):
    labels = Labels.model_validate(labels)
    columns = encode(labels, drawn(0, 7, classes, 2.0))
    assert sum(column.nbytes for column in columns.values()) == 7 * row_bytes(labels, classes)


def test_equal_logits_survive_every_form():
    logits = torch.full((2, 4), 1.5)
    for labels in EVERY:
        assert torch.allclose(there_and_back(labels, logits).softmax(1), torch.full((2, 4), 0.25), atol=1e-3)


def test_class_numbers_take_as_few_bytes_as_they_can():
    assert [id_type(classes) for classes in (2, 256, 257, 65536, 65537)] == [
        np.dtype(name) for name in ("uint8", "uint8", "uint16", "uint16", "uint32")
    ]


def test_says_what_cannot_be_kept():
    logits = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [float("inf"), 0.0], [70_000.0, 0.0]])
    assert fault(Labels(), logits) == [
        "",
        "a logit is not finite",
        "a logit is not finite",
        "a logit is beyond fp16",
    ]
    assert fault(Labels(precision="int8"), logits)[3] == ""


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="top_k needs `k`"):
        Labels(precision="top_k")
    with pytest.raises(ValueError, match="fp16 takes no `k`"):
        Labels(k=3)
    with pytest.raises(ValueError, match="k is 10 of 10 classes; lower it, or use fp16"):
        check_labels(Labels(precision="top_k", k=10), 10)
    assert not Labels(precision="top_k", k=3).keeps_logits
