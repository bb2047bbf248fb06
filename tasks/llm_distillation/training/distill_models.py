"""Teacher and student of a distillation: what is known of them while planning, and how they are loaded."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from orchestrator.task import Artifact, Facts
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.labels.kept_labels import KeptTokenLabels
from tasks.llm_distillation.losses import check_teacher
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.model_artifact import artifact_config, artifact_tokenizer, load_artifact
from tasks.llm_distillation.models.origins import origins
from tasks.llm_distillation.models.student_model import (
    chosen_layers,
    initial_student,
    parameter_count,
    student_config,
)
from tasks.llm_distillation.models.vocabulary import (
    check_covers,
    check_length,
    model_facts,
    positions,
    tokenizer_facts,
    vocabulary_size,
)
from tasks.llm_distillation.text.alignment import check_keeps_text
from tasks.llm_distillation.text.packing import Sequences, check_sealed
from tasks.llm_distillation.text.retold import Retold
from tasks.llm_distillation.text.sequences import packed, sequences
from tasks.llm_distillation.training.lm_step import check_plain_head
from tasks.llm_distillation.training.teacher_reader import SplitReader, WholeReader
from tasks.llm_distillation.training.teacher_signal import Retelling, Signal, Speaking
from tasks.llm_distillation.training.two_tokenizers import check_tokenizers, differ
from tasks.llm_distillation.writing.responses import read_responses

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def planned(config: DistillConfig, inputs: Mapping[str, Facts]) -> Facts:
    """The `model_facts` of the student to be, and its `parameters`. ValueError where teacher, student, corpus and
    length do not fit together; of responses, which are not written yet, only the corpus is known."""
    teacher = _teacher_facts(config, inputs)
    student = _student_facts(config, teacher)
    check_length("of the student", config.length, student["positions"])
    if teacher is not None and config.asks_teacher:
        check_tokenizers(config, teacher, student, _known_tokenizer(config))
        if not differ(teacher, student):
            check_length("of the teacher", config.length, teacher["positions"])
    if config.labels is not None:
        _check_labels(config, inputs["labels"], student)
    tokenizer = _known_tokenizer(config)
    if config.responses is not None:
        _check_responses(config, inputs["responses"])
    elif tokenizer is not None:
        learned(config, len(sequences(config.corpus, tokenizer, config.length)))
    spoken = {"teacher_bytes": _teacher_bytes(config, teacher)} if teacher and config.asks_teacher else {}
    return {**student, **spoken, **origins(config.corpus, config.student.model, config.teacher)}


def _check_labels(config: DistillConfig, labels: Facts, student: Facts) -> None:
    known = student["tokenizer"]
    kept = KeptTokenLabels(labels, ())
    kept.check(
        length=config.length,
        tokenizer_digest=known["digest"],
        vocabulary=known["size"],
        corpus_digest=config.corpus.content_digest(),
        **_expected_teacher(config, labels),
    )
    sampled = kept.labels.form == "sampled"
    if sampled:
        config.check_best_by(agreement=False)
    check_teacher(config.objective, "sampled" if sampled else "top_k")


def _expected_teacher(config: DistillConfig, labels: Facts) -> dict[str, str]:
    """Whose word the labels have to be, where both that and the settings' teacher are known before the run."""
    known = config.teacher is not None and "teacher_digest" in labels
    return {"teacher_digest": config.teacher.content_digest()} if config.teacher and known else {}


def _check_responses(config: DistillConfig, responses: Facts) -> None:
    if responses["corpus"] != config.corpus.content_digest():
        raise ValueError(
            "responses: were written to another corpus, or one that is read otherwise; give both stages the same "
            "settings of `corpus`"
        )


def learned(config: DistillConfig, sequences: int) -> int:
    """How many of the sequences are learned from. ValueError where none is left."""
    if config.held_out >= sequences:
        origin = "corpus has" if config.responses is None else "responses have"
        raise ValueError(
            f"held_out {config.held_out}: the {origin} {sequences} sequences of {config.length} tokens; hold out less"
        )
    return sequences - config.held_out


def _teacher_facts(config: DistillConfig, inputs: Mapping[str, Facts]) -> Facts | None:
    if config.teacher_artifact is not None:
        return inputs["teacher_artifact"]
    return _facts(config.teacher) if config.teacher is not None else None


def _facts(model: LanguageModel) -> Facts:
    check_covers(model.label, model.config(), model.tokenizer())
    return {**model_facts(model.config(), model.tokenizer()), "parameters": parameter_count(model.config())}


def _student_facts(config: DistillConfig, teacher: Facts | None) -> Facts:
    student = config.student
    if student.model is not None:
        return _facts(student.model)
    if teacher is None:
        raise ValueError(
            "student: its `layers` are a teacher's, and there is none; give `teacher` or `teacher_artifact`, or a "
            "student that is a `model`"
        )
    if config.teacher is not None:
        made = student_config(student, config.teacher.config())
        return {**model_facts(made, config.teacher.tokenizer()), "parameters": parameter_count(made)}
    assert student.layers is not None
    count = student.layers if isinstance(student.layers, int) else len(student.layers)
    if not student.fresh:
        chosen_layers(student.layers, teacher["layers"])
    return {
        **teacher,
        "layers": count,
        "hidden_size": student.hidden_size or teacher["hidden_size"],
        "parameters": _fewer(teacher, count, student.hidden_size or teacher["hidden_size"]),
    }


def _fewer(teacher: Facts, layers: int, hidden_size: int) -> int:
    """About how many weights are left of a teacher's, whose files cannot be read yet."""
    table = teacher["logits"] * teacher["hidden_size"]
    in_layers = max(0, teacher.get("parameters", 0) - table) * layers / teacher["layers"]
    wider = hidden_size / teacher["hidden_size"]
    return round(wider * table + wider**2 * in_layers)


def _teacher_bytes(config: DistillConfig, teacher: Facts) -> int:
    """Of its weights, whole."""
    narrow = config.teacher is not None and config.teacher.dtype == "bf16"
    return int(teacher.get("parameters", 0)) * (2 if narrow else 4)


def _known_tokenizer(config: DistillConfig) -> "PreTrainedTokenizerBase | None":
    """The student's, where it is not that of an artifact, whose files cannot be read yet."""
    model = config.student.model or config.teacher
    return None if model is None else model.tokenizer()


class Models:
    """Teacher and student in a worker."""

    def __init__(self, config: DistillConfig, inputs: Mapping[str, Artifact]) -> None:
        self._config, self._artifact = config, inputs.get("teacher_artifact")
        self._labels, self._responses = inputs.get("labels"), inputs.get("responses")

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The student's."""
        if self._config.student.model is not None:
            return self._config.student.model.tokenizer()
        if self._artifact is not None:
            return artifact_tokenizer(self._artifact)
        assert self._config.teacher is not None
        return self._config.teacher.tokenizer()

    def sequences(self) -> Sequences:
        """What is learned from and, at its end, judged by. ValueError where no token is left to learn."""
        corpus, length = self._config.corpus, self._config.length
        if self._responses is None:
            return sequences(corpus, self.tokenizer, length)
        return packed(read_responses(self._responses), corpus, self.tokenizer, length)

    def labels(self) -> KeptTokenLabels:
        """The teacher's kept word. ValueError where it is another teacher's than the settings name."""
        assert self._labels is not None
        kept = KeptTokenLabels.of(self._labels)
        if self._artifact is not None:
            kept.check(teacher_digest=self._artifact.id)
        elif self._config.teacher is not None:
            kept.check(teacher_digest=self._config.teacher.content_digest())
        return kept

    def teacher(self, device: str) -> "PreTrainedModel":
        """The teacher in its own dtype; in main memory where it is to be split. ValueError where its documents would
        see each other."""
        model = self._load_teacher("cpu" if self._config.zero.teacher else device)
        check_plain_head(model, "of the teacher")
        self._check_sealed(model, "of the teacher")
        return model

    def signal(self, teacher: "PreTrainedModel", sequences: Sequences, device: str) -> Signal:
        """The word of `teacher` on the sequences, in the tokens of its own tokenizer where that is another one. The
        teacher is split where the settings say so. ValueError where two tokenizers cannot be set side by side."""
        zero = self._config.zero
        reader = SplitReader(teacher, zero, device) if zero.teacher else WholeReader(teacher)
        own, other = self.tokenizer, self._teacher_tokenizer
        size = vocabulary_size(other)
        if tokenizer_facts(own)["digest"] == tokenizer_facts(other)["digest"]:
            return Speaking(reader, size)
        check_keeps_text(own, "student")
        check_keeps_text(other, "teacher")
        return Retelling(reader, Retold(sequences, own, other, positions(teacher.config)), size)

    @property
    def _teacher_tokenizer(self) -> "PreTrainedTokenizerBase":
        if self._artifact is not None:
            return artifact_tokenizer(self._artifact)
        assert self._config.teacher is not None
        return self._config.teacher.tokenizer()

    def student(self, seed: int) -> "PreTrainedModel":
        """The student before training, in fp32 on the CPU, without dropout."""
        made = initial_student(
            self._config.student, self._teacher_config(), lambda: self._load_teacher("cpu"), seed
        ).float()
        check_plain_head(made, "of the student")
        self._check_sealed(made, "of the student")
        _without_dropout(made)
        made.config.dtype = torch.float32
        return made

    def _check_sealed(self, model: "PreTrainedModel", name: str) -> None:
        if self._config.corpus.pack:
            check_sealed(model, name)

    def _load_teacher(self, device: str) -> "PreTrainedModel":
        if self._artifact is not None:
            return load_artifact(self._artifact, device)[0]
        assert self._config.teacher is not None
        return self._config.teacher.load(device)

    def _teacher_config(self) -> "PretrainedConfig":
        if self._config.student.model is not None:
            return self._config.student.model.config()
        if self._artifact is not None:
            return artifact_config(self._artifact)
        assert self._config.teacher is not None
        return self._config.teacher.config()


def _without_dropout(model: "PreTrainedModel") -> None:
    """A student copies; and no random number may depend on how its sequences are spread over the ranks."""
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif hasattr(part, "attention_dropout") and isinstance(part.attention_dropout, float):
            part.attention_dropout = 0.0
