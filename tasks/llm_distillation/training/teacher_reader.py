"""A frozen teacher that is asked for hidden states and head, whole on each rank or split among them.

Source: ZeRO stage 3, Rajbhandari et al. 2020, without gradients and optimiser.
"""

import contextlib
import io
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from tasks.llm_distillation.training.lm_step import head_of
from tasks.llm_distillation.training.zero import Zero, deepspeed_on, join_alone, quietly

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reader(Protocol):
    """A teacher that reads; where it is split, a collective call."""

    def __call__(self, ids: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states (B,T,d) of tokens (B,T) at their places in their documents, and the head (V,d)."""
        ...


class WholeReader(nn.Module):
    """The teacher as it is."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.trunk, self.head = model.base_model, _Head(head_of(model))
        self.requires_grad_(False).eval()

    def forward(self, ids: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        said = self.trunk(input_ids=ids, position_ids=position, use_cache=False)
        return said.last_hidden_state, self.head()


class _Head(nn.Module):
    """Owns the head's weight, so that ZeRO makes it whole while it is asked for, tied to the embedding or not."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        return self.weight.detach()


class SplitReader:
    """The teacher with its weights split among all ranks; each part is whole while it computes, the head as long as
    the loss of its batch takes."""

    def __init__(self, model: "PreTrainedModel", zero: Zero, device: str) -> None:
        deepspeed = deepspeed_on(device)
        join_alone(device)
        reader, config = WholeReader(model), _config(zero, str(model.dtype))
        with quietly(), contextlib.redirect_stdout(io.StringIO()):
            deepspeed.zero.Init(module=reader, config_dict_or_path=config, dtype=model.dtype)
            for part in reader.modules():
                for name, value in part._buffers.items():
                    part._buffers[name] = None if value is None else value.to(device)
            self._engine, *_ = deepspeed.initialize(model=reader, config=config, dist_init_required=False)
        self._engine.module.eval()

    def __call__(self, ids: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        with quietly():
            return self._engine(ids, position)


def _config(zero: Zero, dtype: str) -> dict[str, object]:
    sharing = {"stage": 3, "stage3_param_persistence_threshold": zero.whole_below}
    narrow = {"bf16": {"enabled": True}} if dtype == "torch.bfloat16" else {}
    return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": sharing, **narrow}
