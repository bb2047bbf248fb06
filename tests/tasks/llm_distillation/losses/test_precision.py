"""Logits in slices of the vocabulary are those of one product."""

import pytest
import torch

from tasks.llm_distillation.losses.precision import ENOUGH, TOKENS_AT_ONCE, logits_of

WIDTH = 64


@pytest.mark.parametrize("tokens", [1, TOKENS_AT_ONCE, 2 * TOKENS_AT_ONCE + 7])
@pytest.mark.parametrize("positions", [3, ENOUGH // WIDTH])
def test_slices_are_the_product(tokens, positions):
    draws = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(positions, WIDTH, generator=draws)
    head = torch.randn(tokens, WIDTH, generator=draws)
    with torch.no_grad():
        found = logits_of(hidden, head)
    torch.testing.assert_close(found, hidden @ head.T, rtol=1e-5, atol=1e-4)


def test_with_a_gradient_it_is_one_product():
    hidden = torch.randn(ENOUGH // WIDTH, WIDTH, requires_grad=True)
    head = torch.randn(2 * TOKENS_AT_ONCE, WIDTH)
    logits_of(hidden, head).sum().backward()
    torch.testing.assert_close(hidden.grad, head.sum(0).expand_as(hidden), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_come_wide(dtype):
    hidden, head = torch.randn(ENOUGH // WIDTH, WIDTH, dtype=dtype), torch.randn(5, WIDTH, dtype=dtype)
    with torch.no_grad():
        found = logits_of(hidden, head)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found, (hidden @ head.T).to(found.dtype))
