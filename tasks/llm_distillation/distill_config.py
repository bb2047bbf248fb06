"""The settings of distill_lm."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.task import Input, Settings
from tasks.llm_distillation.losses import Divergence, Mixture, SpanCorrelation
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.student_model import Student
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.training.best_by import AGREEMENT, HELD_OUT, BestBy
from tasks.llm_distillation.training.lm_step import SPANS, terms_of
from tasks.llm_distillation.training.lora import Lora
from tasks.llm_distillation.training.on_policy import OnPolicy
from tasks.llm_distillation.training.zero import Zero

TEXT_ALONE = "sft"


def _mixture(value: object) -> object:
    """What is short for a mixture: `sft`, the name of a divergence, or a divergence's settings among a mixture's."""
    given = {"name": value} if isinstance(value, str) else value
    if not (isinstance(given, dict) and "name" in given):
        return value
    if given["name"] == TEXT_ALONE:
        return {"cross_entropy": 1.0, **{key: of for key, of in given.items() if key != "name"}}
    own = {key: of for key, of in given.items() if key in Divergence.model_fields}
    return {"divergences": (own,), **{key: of for key, of in given.items() if key not in own}}


class DistillConfig(Settings):
    """Settings of distill_lm. The teacher's word on the corpus is read from `labels` where they are given; else the
    teacher speaks while the student learns. What the student writes itself is always judged by the teacher."""

    student: Student
    """Who learns: a model, some layers of the teacher, or a fresh one of its architecture."""
    corpus: Corpus
    """What it learns from, and how text is read."""
    objective: Annotated[Mixture, BeforeValidator(_mixture)]
    """What it is judged by: divergences from the teacher, cross-entropy on the text. `objective: forward_kl` is short
    for that one divergence, with its settings `{name: jsd, beta: 0.1, cross_entropy: 0.5}`; `sft` for the
    cross-entropy alone, which is plain fine-tuning."""
    spans: SpanCorrelation | None = None
    """MGSR's span loss beside the objective: how neighbouring tokens of a word go together, the mean over pairs of
    neighbours. Its distance and words as spans are a reconstruction. Needs a teacher that reads along."""
    teacher: LanguageModel | None = None
    """A model that is there already; not loaded where labels or cross-entropy make it unnecessary. With `on_policy`
    it is needed beside `labels`."""
    teacher_artifact: Annotated[str | None, Input("language_model")] = None
    """A teacher of an earlier stage, in place of `teacher`."""
    labels: Annotated[str | None, Input("token_labels")] = None
    """The teacher's word on the same corpus and length, computed once."""
    responses: Annotated[str | None, Input("responses")] = None
    """What a teacher wrote to the prompts of the same corpus, learned from in place of the text there. With the
    objective `sft` this is sequence-level distillation (SeqKD, Kim and Rush 2016)."""
    on_policy: OnPolicy | None = None
    """The student writes a share of its texts itself; none: all texts are the corpus's."""
    length: int = Field(gt=1)
    """Tokens of a sequence."""
    batch: int = Field(default=16, gt=0)
    """Sequences of a step, over all ranks."""
    micro_batch: int | None = Field(default=None, gt=0)
    """Sequences of one forward pass on a rank; none: its whole part of the batch."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the corpus or the responses; either this or `steps`."""
    steps: int | None = Field(default=None, gt=0)
    """Updates of the weights; either this or `epochs`."""
    lr: float = Field(default=5e-5, gt=0)
    """Highest learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up: to a tenth along a cosine, to 0 in a line, not at all."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which it grows in a line."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's, of matrices; vectors do not decay."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's share of the old mean of gradients."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW's share of the old mean of squared gradients."""
    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the whole gradient; 0: no limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the student computes in; its weights are kept in fp32 besides."""
    zero: Zero = Zero()
    """How the training is spread over the ranks; does not change what is learned."""
    activation_checkpointing: bool = False
    """Compute activations anew in the backward pass: less memory, a third more work."""
    lora: Lora | None = None
    """Train low-rank adapters only."""
    held_out: int = Field(default=0, ge=0)
    """Sequences at the end that are not learned but judged by: the corpus's, or of `responses` where they are given,
    since the corpus may hold prompts alone."""
    evaluate_every: int | None = Field(default=None, gt=0)
    """Steps between two judgements on them; none: at the end only."""
    keep: Literal["last", "best"] = "last"
    """Which student is the result: the last, or the best on the held-out sequences."""
    best_by: BestBy = BestBy()
    """What the best is the best by; none: the lowest `held_out_loss`."""

    @model_validator(mode="after")
    def _fits_together(self) -> "DistillConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either `epochs` or `steps`")
        if self.teacher is not None and self.teacher_artifact is not None:
            raise ValueError("give either `teacher` or `teacher_artifact`")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch {self.batch}; expected a divisor of it"
            )
        if (self.keep == "best" or self.evaluate_every) and not self.held_out:
            raise ValueError("nothing is held out to judge by; give `held_out`, a number of sequences")
        if self.keep == "best":
            self.check_best_by(agreement=self.objective.needs_teacher)
        elif "best_by" in self.model_fields_set:
            raise ValueError("best_by: the last student is kept, whatever it is judged by; add `keep: best`")
        if self.labels is not None and self.responses is not None:
            raise ValueError("labels are of the corpus's own text; give either `labels` or `responses`")
        if self.on_policy is not None and not self.objective.needs_teacher:
            raise ValueError("on_policy: a teacher judges what is written; give the objective a divergence")
        if self.on_policy is not None and not (self.teacher or self.teacher_artifact):
            raise ValueError(
                "on_policy: labels know nothing of what the student writes; give `teacher` or `teacher_artifact`, "
                "which speaks of that, beside `labels`"
            )
        if self.on_policy is not None and self.on_policy.corrections and self.zero.teacher:
            raise ValueError(
                "zero.teacher: corrections ask a teacher on each rank by itself; leave out `on_policy.corrections`, "
                "or keep the teacher whole"
            )
        if self.on_policy is not None and self.on_policy.sampling.engine == "vllm" and self.lora:
            raise ValueError(
                "on_policy.sampling.engine: vLLM is sent plain weights; leave out `lora`, or set `engine: transformers`"
            )
        if self.spans is not None and not self.reads_along:
            raise ValueError(
                "spans: need a teacher that reads along; leave out `labels`, and give the objective a divergence"
            )
        if self.objective.needs_teacher and not (self.labels or self.teacher or self.teacher_artifact):
            raise ValueError(
                "objective: its divergences need a teacher; give `teacher`, `teacher_artifact` or `labels`"
            )
        return self

    @property
    def reads_along(self) -> bool:
        """Whether the teacher itself speaks of the corpus, rather than its labels."""
        return self.labels is None and self.objective.needs_teacher

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher itself is loaded, to read along or to judge what the student writes."""
        return self.reads_along or self.on_policy is not None

    def check_best_by(self, agreement: bool) -> None:
        """ValueError where the best is to be kept, by what the held-out sequences are not judged by. `agreement`:
        whether the teacher's likeliest token is known, as it is not of labels that are sampled."""
        parts = ["loss", *terms_of(self.objective.model_copy(update={"cross_entropy": 1.0})), "perplexity"]
        parts += [SPANS] if self.spans is not None else []
        parts += [AGREEMENT] if agreement else []
        if self.keep == "best":
            self.best_by.check([HELD_OUT + part for part in parts])
