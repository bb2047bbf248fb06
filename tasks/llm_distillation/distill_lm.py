"""Trains a student language model from a teacher, spread over ranks by DeepSpeed ZeRO.

Sources: the losses name theirs; ZeRO is Rajbhandari et al. 2020; LoRA is Hu et al. 2021.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Memory,
    Needs,
    Output,
    Progress,
    Rows,
    Served,
    Settings,
    Shard,
    ShardFiles,
    Task,
)
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.labels.token_reader import Replayed
from tasks.llm_distillation.models.model_artifact import KIND, WEIGHTS, model_output, shard_model
from tasks.llm_distillation.student_card import student_card
from tasks.llm_distillation.training.distill_models import Models, learned, planned
from tasks.llm_distillation.training.lm_memory import check_memory, memory_of
from tasks.llm_distillation.training.lm_plan import total_steps
from tasks.llm_distillation.training.lm_step import Learner
from tasks.llm_distillation.training.lm_training import Training
from tasks.llm_distillation.training.lora import merged, with_adapters
from tasks.llm_distillation.training.teacher_signal import Signal, Signals, silence
from tasks.llm_distillation.training.written_texts import Writing
from tasks.llm_distillation.writing.continuing import writer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BY_SPREADING = frozenset({"zero", "micro_batch", "activation_checkpointing"})
"""Settings that change how the work is done, and the result by rounding alone."""


class DistillLm(Task[DistillConfig]):
    """Trains a student language model from a teacher, from its cached labels or responses, or on text alone.

    One shard, computed by one rank or several; resumable after every step, at another number of ranks and
    another ZeRO stage too.
    """

    version: ClassVar[int] = 2
    makes: ClassVar[str] = KIND
    Config: ClassVar[type[Settings]] = DistillConfig
    needs: ClassVar[Needs] = Needs(memory_gb=4.0)
    gang: ClassVar[bool] = True

    @classmethod
    def describe(cls, config: DistillConfig, inputs: Mapping[str, Facts]) -> Facts:
        return planned(config, inputs)

    @classmethod
    def shards(cls, config: DistillConfig, facts: Facts) -> Sequence[Shard]:
        return [Shard({"student": 0}, ignores=BY_SPREADING, disk_bytes=4 * facts["parameters"])]

    @classmethod
    def memory(cls, config: DistillConfig, facts: Facts, needs: Needs) -> Memory:
        return memory_of(config, facts, needs)

    def __init__(
        self, config: DistillConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.facts, self.models = config, facts, Models(config, inputs)
        self.sequences = self.models.sequences()
        self.learned = learned(config, len(self.sequences))
        check_memory(config, facts, context)
        self.teacher = self.models.teacher(context.device) if config.asks_teacher else None
        self.signals = self._signals(context.device)

    def _signals(self, device: str) -> Signals:
        spoken: Signal = silence
        if self.teacher is not None:
            spoken = self.models.signal(self.teacher, self.sequences, device)
        labelled = self.config.labels is not None and self.config.objective.needs_teacher
        return Signals(Replayed(self.models.labels()) if labelled else spoken, written=spoken)

    def compute(self, shard: Shard, context: Context) -> Output:
        config = self.config
        steps = total_steps(self.learned, config.batch, config.epochs, config.steps)
        student = self._student(context)
        learner = Learner(student, config.objective, self.facts["tokenizer"]["size"], config.spans)
        saved = context.load_progress()
        writing = self._writing(context, saved)
        training = Training(
            config,
            learner,
            self.sequences,
            self.models.tokenizer,
            self.signals,
            steps,
            context,
            saved,
            writing,
        )
        found, weights = training.run(), training.weights()
        training.close()
        if context.rank > 0:
            return Output()
        made = self._made(student, weights, context)
        facts = {**made.facts, "counts": dict(self.sequences.counts)}
        return replace(made, facts=facts, metrics={**found, "steps": steps})

    def _writing(self, context: Context, saved: Progress | None) -> Writing | None:
        if self.config.on_policy is None:
            return None
        assert self.teacher is not None
        return Writing(self.config, self.sequences, self.teacher, self.facts["tokenizer"], context, saved)

    def _student(self, context: Context) -> "PreTrainedModel":
        student = self.models.student(context.seed("student"))
        if self.config.lora is not None:
            with_adapters(student, self.config.lora, context.seed("adapters"))
        if self.config.activation_checkpointing:
            student.activation_checkpointing_enable()
        return student

    def _made(self, student: "PreTrainedModel", weights: Mapping[str, Tensor], context: Context) -> Output:
        """The trained student, whole; adapters are merged into a fresh copy, since ZeRO may have split theirs."""
        if self.config.lora is None:
            return model_output(student, self.models.tokenizer, {**weights, **_lasting_buffers(student)})
        plain = self.models.student(context.seed("student"))
        adapted = with_adapters(plain, self.config.lora, context.seed("adapters"))
        return model_output(merged(adapted, weights), self.models.tokenizer)

    @classmethod
    def close(
        cls,
        config: DistillConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        (student,) = shards
        made = shard_model(student)
        count = sum(weight.numel() for weight in made.tensors[WEIGHTS].values())
        card = {"card": student_card(config, student.facts, count)}
        return replace(made, documents={**made.documents, **card}, metrics=student.metrics)

    @classmethod
    def serves(cls, facts: Facts) -> Served | None:
        return Served("language model", Rows("string"), Rows("string"))

    @classmethod
    def asked(cls, artifact: Artifact) -> Callable[[Sequence[str]], list[str]]:
        return writer(artifact)


def _lasting_buffers(model: "PreTrainedModel") -> dict[str, Tensor]:
    buffers = dict(model.named_buffers())
    return {name: value for name, value in model.state_dict().items() if name in buffers}
