"""Writing: batches of prompts are continued token by token, each row with random numbers of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from orchestrator.task import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


EngineName = Literal["transformers", "vllm"]


class Sampling(Settings):
    """How the next token is drawn, and by whom."""

    new_tokens: int = Field(default=128, ge=1)
    """Tokens written at most."""
    temperature: float = Field(default=1.0, ge=0)
    """Logits are divided by it; 0 always takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the likeliest tokens that together have this probability are drawn from; 1 takes all."""
    engine: EngineName = "transformers"
    """Who computes: the model as it is loaded, or vLLM in a process of its own, with the same weights. The random
    numbers of the two differ."""


def write(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    vocabulary: int,
    end: int | None,
) -> list[list[int]]:
    """The tokens that `model` writes after each prompt, up to and with the `end` token.

    A row depends on its prompt and seed; on its companions in the batch only as rounding does. Token ids from
    `vocabulary` on are never written. A prompt is not empty.
    """
    device = str(next(model.parameters()).device)
    randoms = torch.stack([_randoms(seed, sampling.new_tokens) for seed in seeds]).to(device)
    ids, seen = _left_padded(prompts, device)
    positions = (seen.cumsum(1) - 1).clamp_min(0)
    written = torch.full((len(prompts), sampling.new_tokens), -1, device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache = None
    with torch.no_grad():
        for step in range(sampling.new_tokens):
            told = model(
                input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache = told.past_key_values
            chosen = draw(told.logits[:, -1, :vocabulary], randoms[:, step], sampling)
            written[:, step] = torch.where(done, -1, chosen)
            done |= chosen == (-1 if end is None else end)
            if done.all():
                break
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            seen = torch.cat([seen, torch.ones_like(ids)], dim=1)
    return [[token for token in row if token >= 0] for row in written.tolist()]


def draw(logits: Tensor, randoms: Tensor, sampling: Sampling) -> Tensor:
    """One token a row (B,) of logits (B,V): where `randoms` (B,), uniform in [0, 1), fall in the distribution."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.double() / sampling.temperature).softmax(-1)
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    reached = ordered.cumsum(-1)
    ordered = ordered.masked_fill(reached - ordered >= sampling.top_p, 0)  # the one that reaches top_p stays
    reached = ordered.cumsum(-1)
    place = torch.searchsorted(reached, randoms[:, None] * reached[:, -1:], right=True)
    last = (ordered > 0).sum(-1, keepdim=True) - 1
    return tokens.gather(-1, torch.minimum(place, last)).squeeze(-1)


def _randoms(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _left_padded(prompts: Sequence[Sequence[int]], device: str) -> tuple[Tensor, Tensor]:
    """Ids (B,P) that all end in the last column, and where they are (B,P)."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    seen = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        assert prompt, f"prompt {row} is empty"
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        seen[row, longest - len(prompt) :] = 1
    return ids.to(device), seen.to(device)
