"""The models that evaluate_lm judges: what is known of them while planning, and how they are loaded."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.task import Artifact, Facts
from tasks.llm_distillation.evaluate_config import ARTIFACTS, EvaluateLmConfig, Judged
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.model_artifact import artifact_config, artifact_tokenizer, load_artifact
from tasks.llm_distillation.models.student_model import initial_student, student_config
from tasks.llm_distillation.models.vocabulary import (
    check_covers,
    check_length,
    check_same_tokens,
    model_facts,
)
from tasks.llm_distillation.text.packing import check_sealed
from tasks.llm_distillation.writing.answering import answering_engine
from tasks.llm_distillation.writing.engines import Engine, Writer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def check_models(config: EvaluateLmConfig, inputs: Mapping[str, Facts]) -> Facts:
    """The tokenizer's facts. ValueError where the models have not the same tokens, or take shorter sequences."""
    known = {role: facts for role in config.judged if (facts := _facts(role, config, inputs)) is not None}
    needed = config.length + (config.sampling.new_tokens if config.prompts else 0)
    for role, facts in known.items():
        check_same_tokens(known["student"], facts, ("student", role))
        check_length(f"`{role}`", config.length, facts["positions"])
        if facts["positions"] is not None and needed > facts["positions"]:
            raise ValueError(
                f"length {config.length} and {config.sampling.new_tokens} new tokens: model `{role}` takes at most "
                f"{facts['positions']} tokens; lower `length` or `sampling.new_tokens`, or set `prompts: 0`"
            )
    tokenizer: Facts = known["student"]["tokenizer"]
    return tokenizer


def _facts(role: Judged, config: EvaluateLmConfig, inputs: Mapping[str, Facts]) -> Facts | None:
    """None where it is known only once the teacher's artifact is there."""
    if role in ARTIFACTS:
        return inputs[role]
    if role == "teacher":
        return inputs["teacher_artifact"] if config.teacher is None else _model_facts(config.teacher)
    assert config.before is not None
    if config.before.model is not None:
        return _model_facts(config.before.model)
    if config.teacher is None:
        return None
    return model_facts(student_config(config.before, config.teacher.config()), config.teacher.tokenizer())


def _model_facts(model: LanguageModel) -> Facts:
    check_covers(model.label, model.config(), model.tokenizer())
    return model_facts(model.config(), model.tokenizer())


class JudgedModels:
    """The models in a worker: the teacher, once asked for, and the one judged last."""

    def __init__(
        self, config: EvaluateLmConfig, inputs: Mapping[str, Artifact], device: str, seed: int
    ) -> None:
        self._config, self._inputs, self._device, self._seed = config, inputs, device, seed
        self._last: tuple[Judged, PreTrainedModel] | None = None
        self._writer: tuple[Judged, Writer] | None = None

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The student's."""
        return artifact_tokenizer(self._inputs["student"])

    @cached_property
    def teacher(self) -> "PreTrainedModel":
        """The teacher."""
        return self._checked("teacher", self._load_teacher())

    def model(self, role: Judged) -> "PreTrainedModel":
        """The model judged under this name."""
        if role == "teacher":
            return self.teacher
        if self._last is None or self._last[0] != role:
            self._last = self._writer = None  # its memory is free before the next one is loaded
            self._last = role, self._checked(role, self._load(role))
        return self._last[1]

    @cached_property
    def _engine(self) -> Engine:
        config = self._config
        return answering_engine(
            self.tokenizer, config.sampling, length=config.length, batch=config.batch, device=self._device
        )

    def writer(self, role: Judged) -> Writer:
        """What writes for the model judged under this name."""
        if self._writer is None or self._writer[0] != role:
            model = self.model(role)
            self._writer = role, self._engine.writer(model)
        return self._writer[1]

    def _load(self, role: Judged) -> "PreTrainedModel":
        if role in ARTIFACTS:
            return load_artifact(self._inputs[role], self._device)[0]
        assert self._config.before is not None
        config = self._teacher_config()
        return initial_student(self._config.before, config, lambda: self.teacher, self._seed).to(self._device)

    def _load_teacher(self) -> "PreTrainedModel":
        if self._config.teacher is not None:
            return self._config.teacher.load(self._device)
        return load_artifact(self._inputs["teacher_artifact"], self._device)[0]

    def _teacher_config(self) -> "PretrainedConfig":
        if self._config.before is not None and self._config.before.model is not None:
            return self._config.before.model.config()
        if self._config.teacher is not None:
            return self._config.teacher.config()
        return artifact_config(self._inputs["teacher_artifact"])

    def _checked(self, role: Judged, model: "PreTrainedModel") -> "PreTrainedModel":
        if self._config.corpus.pack:
            check_sealed(model, f"`{role}`")
        return model
