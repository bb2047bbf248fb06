"""Low-rank adapters that learn in place of a model's weights, by peft.

Source: LoRA, Hu et al. 2021, arXiv 2106.09685.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from orchestrator.task import Settings

if TYPE_CHECKING:
    from peft import LoraModel
    from transformers import PreTrainedModel


def _names(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Lora(Settings):
    """Train low-rank adapters only; they are merged into the weights at the end."""

    rank: int = Field(default=8, gt=0)
    """Rank of each adapter."""
    alpha: float = Field(default=16.0, gt=0)
    """An adapter's output counts alpha / rank times."""
    targets: Annotated[tuple[str, ...] | Literal["all-linear"], BeforeValidator(_names)] = "all-linear"
    """Names of the modules that get one, such as [q_proj, v_proj]; or all linear ones but the head."""


def with_adapters(model: "PreTrainedModel", lora: Lora, seed: int) -> "LoraModel":
    """Freezes `model` and puts adapters into it, which leave its output as it is at first.

    Raises ValueError where peft is missing or no module has such a name.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError("lora: peft is not installed; pip install peft") from error
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.LoraModel(model, settings, "default")
        except ValueError as error:
            raise ValueError(
                f"lora.targets {targets}: a {model.config.model_type} has no module of these names; name some of "
                f"{', '.join(_linear(model))}"
            ) from error


def merged(adapted: "LoraModel", weights: Mapping[str, Tensor]) -> "PreTrainedModel":
    """The plain model, its weights changed by the trained adapters, which are `weights` by name."""
    parameters = dict(adapted.model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    return adapted.merge_and_unload()


def _linear(model: "PreTrainedModel") -> list[str]:
    kinds = (torch.nn.Linear,)
    return sorted(
        {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, kinds)}
    )
