import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.model_distillation.losses.multi_sample_dropout import masked, repeated


def seeded(samples, rate, features, seed=3):
    torch.manual_seed(seed)
    return masked(features, samples, rate)


def batch(number=5, width=16):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(number, width, generator=generator, dtype=torch.float64)
    return features, torch.arange(number) % 4, nn.Linear(width, 4).double()


def test_one_mask_is_ordinary_dropout_bit_for_bit():
    features, _, _ = batch()
    found = seeded(1, 0.4, features)
    torch.manual_seed(3)
    assert torch.equal(found, nn.Dropout(0.4)(features))


def test_masks_differ_from_each_other():
    features, _, head = batch()
    first, second = head(seeded(2, 0.5, features)).split(5)
    assert not torch.allclose(first, second)


def test_without_dropout_the_number_of_masks_changes_nothing():
    features, classes, head = batch()
    losses, gradients = [], []
    for samples in (1, 8):
        head.zero_grad()
        loss = cross_entropy(head(seeded(samples, 0.0, features)), repeated(classes, samples))
        loss.backward()
        losses.append(loss.detach())
        gradients.append(head.weight.grad.clone())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_equals_dropout_of_a_batch_that_repeats_its_samples():
    features, classes, head = batch()
    torch.manual_seed(3)
    ordinary = nn.functional.dropout(torch.cat([features] * 3), 0.5)
    expected = cross_entropy(head(ordinary), torch.cat([classes] * 3))
    found = cross_entropy(head(seeded(3, 0.5, features)), repeated(classes, 3))
    torch.testing.assert_close(found, expected)


def test_losses_are_averaged_and_not_logits():
    """Jensen: the mean of the losses lies above the loss of the mean."""
    features, classes, head = batch()
    logits = head(seeded(8, 0.5, features))
    each = cross_entropy(logits, repeated(classes, 8), reduction="none").view(8, 5).mean(0)
    of_mean = cross_entropy(logits.view(8, 5, 4).mean(0), classes, reduction="none")
    assert bool((each > of_mean).all())


def test_the_spread_of_the_gradient_falls_with_the_number_of_masks():
    features, classes, head = batch()

    def spread(samples):
        found = []
        for seed in range(200):
            head.zero_grad()
            cross_entropy(head(seeded(samples, 0.5, features, seed)), repeated(classes, samples)).backward()
            found.append(head.weight.grad.clone())
        return float(torch.stack(found).var(0).mean())

    assert 5 < spread(1) / spread(8) < 12
