"""Engines that write for a model: transformers, token by token, or vLLM in a process of its own.

vLLM pins its own versions of torch and transformers, binds threads to cores and has a distributed world of its
own: in a process of its own it disturbs no training, and may run from an environment of its own.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.task import Facts
from tasks.llm_distillation.models.model_artifact import own_weights
from tasks.llm_distillation.writing.generation import EngineName, Sampling, write
from tasks.llm_distillation.writing.vllm_client import VllmProcess, vllm_python

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BLOCK = 128
"""Tokens of a block in vLLM's cache, at most."""


class Writer(Protocol):
    """What one model writes."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[int]]:
        """See `generation.write`."""
        ...


class Engine(Protocol):
    """What gives a model a writer."""

    @property
    def facts(self) -> Facts:
        """What wrote, where it is not transformers, whose version every record has."""
        ...

    def writer(self, model: "PreTrainedModel") -> Writer:
        """Writes with the weights that `model` has now, until another writer is asked for."""
        ...


def engine_for(
    name: EngineName, *, vocabulary: int, end: int | None, length: int, batch: int, device: str
) -> Engine:
    """An engine on `device` for texts of at most `length` tokens, prompts included, `batch` of them at a time.

    Token ids from `vocabulary` on are never written; a text ends with `end`. Raises ValueError where this engine is
    not installed.
    """
    if name == "transformers":
        return Transformers(vocabulary, end)
    return Vllm(vocabulary, end, length, batch, device)


class Transformers:
    """The model itself, wherever it is."""

    def __init__(self, vocabulary: int, end: int | None) -> None:
        self._vocabulary, self._end = vocabulary, end

    @property
    def facts(self) -> Facts:
        """None."""
        return {}

    def writer(self, model: "PreTrainedModel") -> Writer:
        """Of the model, which it holds."""
        return partial(write, model, vocabulary=self._vocabulary, end=self._end)


class Vllm:
    """vLLM in a process that ends with this object, or with ours. Other random numbers than `Transformers`."""

    def __init__(self, vocabulary: int, end: int | None, length: int, batch: int, device: str) -> None:
        self._python, self._device = vllm_python(), device
        self._vocabulary, self._end = vocabulary, end
        self._length, self._batch = length, batch
        self._process: VllmProcess | None = None
        self._started: tuple[dict[str, Any], dict[str, Any]] | None = None

    @property
    def facts(self) -> Facts:
        """Its version, once it has written."""
        return {} if self._process is None else {"vllm": self._process.version}

    def writer(self, model: "PreTrainedModel") -> Writer:
        """Sends the weights; a model of another architecture gets a process anew."""
        config = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
        asked = self._settings(model)
        if self._process is None or self._process.ended or self._started != (asked, config):
            if self._process is not None:
                self._process.end()
            self._process = VllmProcess(self._python, self._device, asked, config)
            self._started = asked, config
        self._process.send_weights(own_weights(model))
        padded = model.config.vocab_size > self._vocabulary
        return partial(self._write, self._process, list(range(self._vocabulary)) if padded else None)

    def _write(
        self,
        process: VllmProcess,
        allowed: list[int] | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> list[list[int]]:
        settings = {
            "max_tokens": sampling.new_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "stop_token_ids": [] if self._end is None else [self._end], "allowed_token_ids": allowed,
        }  # fmt: skip
        asked = {"prompts": [list(prompt) for prompt in prompts], "seeds": list(seeds), "sampling": settings}
        written: list[list[int]] = process.ask(asked)["written"]
        return written

    def _settings(self, model: "PreTrainedModel") -> dict[str, Any]:
        """What vLLM is started with, beside the architecture: room in its cache for one batch."""
        config, blocks = model.config, -(-self._length // _BLOCK) + 1
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
        return {
            "dtype": str(model.dtype).removeprefix("torch."), "max_model_len": self._length,
            "max_num_seqs": self._batch, "kv_cache_memory_bytes": token * _BLOCK * blocks * (self._batch + 1),
            "enforce_eager": not self._device.startswith("cuda"),
        }  # fmt: skip
