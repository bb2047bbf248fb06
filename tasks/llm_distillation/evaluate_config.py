"""The settings of evaluate_lm."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.task import Input, Role, Settings
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.student_model import Student
from tasks.llm_distillation.scores.rouge import Answer
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.writing.generation import Sampling

Judged = Literal["teacher", "before", "student", "sft", "seq_kd", "rival"]
ROLES: tuple[Judged, ...] = ("teacher", "before", "student", "sft", "seq_kd", "rival")
"""Who may be judged, in the order of the tables."""
ARTIFACTS = ("student", "sft", "seq_kd", "rival")
"""The roles that are artifacts of earlier stages."""


class EvaluateLmConfig(Settings):
    """Settings of evaluate_lm. Only `student`, `corpus` and `length` have to be given; each further model is one
    more row of the table."""

    student: Annotated[str, Input("language_model")]
    """The student to judge."""
    sft: Annotated[str | None, Input("language_model")] = None
    """Control: the same student trained on the text alone."""
    seq_kd: Annotated[str | None, Input("language_model")] = None
    """Control: the same student trained on what the teacher wrote."""
    rival: Annotated[str | None, Input("language_model")] = None
    """Any other model to compare with, such as a student of another divergence."""
    teacher: LanguageModel | None = None
    """The teacher: how close the others are to it is told, and it is judged itself."""
    teacher_artifact: Annotated[str | None, Input("language_model")] = None
    """A teacher of an earlier stage, in place of `teacher`."""
    before: Student | None = None
    """Control: the student before training, as distill_lm's `student` says it; of a fresh one other random weights."""
    corpus: Corpus
    """Text that no student has seen."""
    length: int = Field(gt=1)
    """Tokens of a sequence, and of a prompt at most."""
    batch: int = Field(default=8, gt=0)
    """Sequences or prompts of one forward pass."""
    prompts: Annotated[int, Role.PLAN] = Field(default=64, ge=0)
    """So many of the corpus's prompts are answered, from the first on; 0: none. Plain text has none."""
    sampling: Sampling = Sampling()
    """How answers are written."""
    sampling_seeds: Annotated[int, Role.PLAN] = Field(default=5, ge=1)
    """Answers to each prompt; ROUGE-L and exact match are means over them with standard errors."""
    exact_match: Annotated[Answer | None, Role.CLOSING] = None
    """Compare final numbers: `marked` with #### as in GSM8K, or the `last_number`; none: do not."""
    shown: Annotated[int, Role.CLOSING] = Field(default=8, ge=0)
    """Answers shown side by side in the document `samples`; the table of that name has all."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.teacher is not None and self.teacher_artifact is not None:
            raise ValueError("give either `teacher` or `teacher_artifact`")
        if self.before is not None and self.before.model is None and not self.taught:
            raise ValueError("before: its `layers` are a teacher's; give `teacher` or `teacher_artifact`")
        if self.sampling.temperature == 0 and self.sampling_seeds > 1:
            raise ValueError(
                "without chance (temperature 0) all answers are the same: set `sampling_seeds: 1`"
            )
        return self

    @property
    def taught(self) -> bool:
        """Whether there is a teacher."""
        return self.teacher is not None or self.teacher_artifact is not None

    @property
    def judged(self) -> list[Judged]:
        """The models there are."""
        given = {role: getattr(self, role) is not None for role in ROLES} | {"teacher": self.taught}
        return [role for role in ROLES if given[role]]

    def reads(self, role: Judged, beside_teacher: bool) -> frozenset[str]:
        """The fields that the model `role` comes from; with `beside_teacher` those of the teacher too."""
        layered = role == "before" and self.before is not None and self.before.model is None
        taught = {"teacher", "teacher_artifact"} if beside_teacher or layered or role == "teacher" else set()
        return frozenset({role} | taught)
