"""The setting of a student: a model of its own, some layers of the teacher, or a fresh one of its architecture."""

import re
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from pydantic import BeforeValidator, Field, model_validator

from orchestrator.task import Settings
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SIZES = ("hidden_size", "intermediate_size", "heads", "kv_heads")


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Student(Settings):
    """Who learns. Either `model`, or `layers` of the teacher, or with `fresh` random weights of any size.

    `student: FOLDER` is short for `student: {model: FOLDER}`. A student made from the teacher has its tokenizer,
    and shares embedding and head where the teacher does.
    """

    model: LanguageModel | None = None
    """A model that is there already."""
    layers: Annotated[int | tuple[int, ...] | None, BeforeValidator(_tuple)] = None
    """Number of layers, of the teacher's evenly spaced, first and last among them; or which, counted from 0."""
    fresh: bool = False
    """Random weights, nothing copied; the sizes below are free then."""
    hidden_size: int | None = Field(default=None, gt=0)
    """Width of the hidden states; none: the teacher's."""
    intermediate_size: int | None = Field(default=None, gt=0)
    """Width inside a layer; none: in the teacher's proportion to the hidden size."""
    heads: int | None = Field(default=None, gt=0)
    """Attention heads; none: of the teacher's width, as many as fit."""
    kv_heads: int | None = Field(default=None, gt=0)
    """Heads of keys and values; none: as many as `heads`, or the teacher's where the heads are."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        sizes = [name for name in SIZES if getattr(self, name) is not None]
        if self.model is not None and (self.layers is not None or self.fresh or sizes):
            raise ValueError("a student that is a `model` takes nothing else: leave out the other settings")
        if self.model is None and self.layers is None:
            raise ValueError("a student is a `model`, or some `layers` of the teacher: give one of them")
        if sizes and not self.fresh:
            raise ValueError(f"`{sizes[0]}` cannot be changed where weights are copied: add `fresh: true`")
        if self.fresh and not isinstance(self.layers, int):
            raise ValueError("a fresh student has no layers of the teacher: give `layers` as a number")
        if self.layers is not None and (not _listed(self.layers) or min(_listed(self.layers)) < 0):
            raise ValueError(f"layers {self.layers}: expected a number above 0, or layers counted from 0")
        return self


def initial_student(
    student: Student,
    teacher_config: "PretrainedConfig",
    load_teacher: Callable[[], "PreTrainedModel"],
    seed: int,
) -> "PreTrainedModel":
    """The student before training, in fp32 on the CPU (a `model` of its own in its dtype).

    `load_teacher` is called only where weights are copied; `seed` is used only for a fresh one. Raises ValueError as
    `student_config`, and as `LanguageModel.load`.
    """
    if student.model is not None:
        return student.model.load("cpu")
    made = random_model(student_config(student, teacher_config), seed)
    if not student.fresh:
        assert student.layers is not None
        count = teacher_config.num_hidden_layers
        made.load_state_dict(layer_weights(load_teacher(), chosen_layers(student.layers, count)))
    return made.eval()


def student_config(student: Student, teacher_config: "PretrainedConfig") -> "PretrainedConfig":
    """Its architecture, known without any weights. Raises ValueError where the sizes do not fit."""
    if student.model is not None:
        return student.model.config()
    assert student.layers is not None
    teacher_layers = teacher_config.num_hidden_layers
    layers = _listed(student.layers) if student.fresh else chosen_layers(student.layers, teacher_layers)
    config = deepcopy(teacher_config)
    for name, value in vars(teacher_config).items():
        if isinstance(value, list) and len(value) == teacher_layers:  # such as layer_types
            setattr(config, name, [value[layer % teacher_layers] for layer in layers])
    config.num_hidden_layers = len(layers)
    config.dtype = torch.float32
    return _resized(config, teacher_config, student) if student.fresh else config


def chosen_layers(layers: int | tuple[int, ...], available: int) -> tuple[int, ...]:
    """Which layers are meant. A number of them is spaced evenly, first and last among them. Raises ValueError."""
    if isinstance(layers, tuple):
        if max(layers) >= available or list(layers) != sorted(set(layers)):
            raise ValueError(
                f"layers {list(layers)}: expected ascending ones from 0 to {available - 1}, the teacher's last"
            )
        return layers
    if layers > available:
        raise ValueError(f"layers {layers}: the teacher has {available}; ask for at most so many")
    if layers == 1:
        return (0,)
    return tuple((2 * place * (available - 1) + layers - 1) // (2 * (layers - 1)) for place in range(layers))


def layer_weights(model: "PreTrainedModel", layers: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The weights by name of the model that has these `layers` of `model`, and all else of it."""
    stack = re.escape(_layer_stack(model))
    numbers = {layer: place for place, layer in enumerate(layers)}
    kept: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        match = re.match(rf"({stack}\.)(\d+)(\..*)", name)
        if match is None:
            kept[name] = value
        elif int(match[2]) in numbers:
            kept[f"{match[1]}{numbers[int(match[2])]}{match[3]}"] = value
    return kept


def parameter_count(config: "PretrainedConfig") -> int:
    """Number of weights of a model with this config, shared ones counted once; no memory is taken for them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in _unset(config).parameters())


def _layer_stack(model: "PreTrainedModel") -> str:
    """Name of the list of layers."""
    count = model.config.num_hidden_layers
    stacks = [
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == count
    ]
    if not stacks:
        raise ValueError(
            f"a {model.config.model_type} keeps its {count} layers in no one list, so that none can be taken; give "
            "the student as a `model`, or `fresh: true`"
        )
    return stacks[0]


def _listed(layers: int | tuple[int, ...]) -> tuple[int, ...]:
    return layers if isinstance(layers, tuple) else tuple(range(layers))


def _resized(config: "PretrainedConfig", teacher: "PretrainedConfig", student: Student) -> "PretrainedConfig":
    hidden = student.hidden_size or teacher.hidden_size
    head_size = teacher.hidden_size // teacher.num_attention_heads
    heads = student.heads or max(1, hidden // head_size)
    if hidden % heads:
        raise ValueError(
            f"hidden_size {hidden} is no multiple of its {heads} heads; set `heads` to a divisor"
        )
    sizes: dict[str, Any] = {"hidden_size": hidden, "num_attention_heads": heads}
    inner = getattr(teacher, "intermediate_size", None)
    if inner is not None or student.intermediate_size is not None:
        sizes["intermediate_size"] = student.intermediate_size or round(inner * hidden / teacher.hidden_size)
    if getattr(teacher, "num_key_value_heads", None) is not None:
        same = heads == teacher.num_attention_heads
        sizes["num_key_value_heads"] = student.kv_heads or (teacher.num_key_value_heads if same else heads)
        if heads % sizes["num_key_value_heads"]:
            raise ValueError(
                f"heads {heads} are no multiple of {sizes['num_key_value_heads']} kv_heads; set `kv_heads`"
            )
    if getattr(teacher, "head_dim", None) is not None:
        sizes["head_dim"] = hidden // heads
    for name, value in sizes.items():
        setattr(config, name, value)
    return config


def random_model(config: "PretrainedConfig", seed: int) -> "PreTrainedModel":
    """Weights as transformers draws them, in fp32 on the CPU; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _unset(config).float()


def _unset(config: "PretrainedConfig") -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_config(config)
