import pytest
import torch
from torch.nn import functional

from tasks.dataset_distillation.synthetic import (
    Rates,
    SyntheticSet,
    cross_entropy,
    expert_logits,
    one_hot_logits,
)
from tests.tasks.dataset_distillation.networks import normal


def start(labels=None):
    labels = torch.arange(4) if labels is None else labels
    return SyntheticSet.start(normal(4, 1, 2, 2), labels, 0.01)


RATES = Rates(
    lr={"images": 10.0, "step_size": 1e-3, "labels": 2.0},
    momentum={"images": 0.5, "step_size": 0.5, "labels": 0.9},
)


def test_descent_is_that_of_torch_sgd():
    synthetic = start(normal(4, 3, seed=1))
    names = ("images", "step_size", "labels")
    reference = {name: getattr(synthetic, name).clone().requires_grad_() for name in names}
    sgd = torch.optim.SGD(
        [{"params": [reference[n]], "lr": RATES.lr[n], "momentum": RATES.momentum[n]} for n in names]
    )
    for step in range(3):
        gradients = {name: normal(*value.shape, seed=step) for name, value in reference.items()}
        for name, value in reference.items():
            value.grad = gradients[name].clone()
        sgd.step()
        synthetic.descend(gradients, RATES)
    for name, value in reference.items():
        assert torch.allclose(getattr(synthetic, name), value.detach(), rtol=1e-12)


def test_the_average_follows_the_pixels():
    synthetic = start()
    expected = synthetic.images.clone()
    for step in range(3):
        synthetic.descend({"images": normal(4, 1, 2, 2, seed=step)}, Rates(RATES.lr, RATES.momentum, 0.9))
        expected = 0.9 * expected + 0.1 * synthetic.images
    assert torch.allclose(synthetic.average, expected, rtol=1e-12)


def test_goes_on_from_its_tensors():
    first = start()
    gradients = {"images": normal(4, 1, 2, 2, seed=5), "step_size": torch.tensor(0.1, dtype=torch.float64)}
    first.descend(gradients, RATES)
    second = SyntheticSet.from_tensors(first.tensors(), "cpu")
    for synthetic in (first, second):
        synthetic.descend(gradients, RATES)
    assert first.tensors().keys() == second.tensors().keys()
    assert all(torch.equal(first.tensors()[name], value) for name, value in second.tensors().items())


def test_hard_labels_are_the_limit_of_soft_ones():
    logits, labels = normal(4, 3), torch.tensor([0, 2, 1, 0])
    hard = cross_entropy(logits, labels)
    assert torch.allclose(cross_entropy(logits, 1e3 * functional.one_hot(labels, 3).double()), hard)
    assert start(labels).probabilities().tolist() == labels.tolist()
    assert start(logits).probabilities().sum(dim=1).tolist() == pytest.approx([1] * 4)


def test_an_expert_is_believed_where_it_is_right():
    logits, labels = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 1])
    assert expert_logits(logits, labels).tolist() == [[3, 1, 0], [0, 5, 0]]
    assert one_hot_logits(labels, 3).argmax(dim=1).tolist() == [0, 1]
