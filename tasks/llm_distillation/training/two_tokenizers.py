"""A teacher with another tokenizer than its student: where that can be, known before anything starts.

Source: Universal Logit Distillation, Boizard et al. 2024, arXiv 2402.12030.
"""

from typing import TYPE_CHECKING

from orchestrator.task import Facts
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.models.vocabulary import check_same_tokens
from tasks.llm_distillation.text.alignment import check_keeps_text
from tasks.llm_distillation.text.examples import Dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def differ(teacher: Facts, student: Facts) -> bool:
    """Whether two `model_facts` have different tokenizers."""
    return bool(teacher["tokenizer"]["digest"] != student["tokenizer"]["digest"])


def check_tokenizers(
    config: DistillConfig, teacher: Facts, student: Facts, own: "PreTrainedTokenizerBase | None"
) -> None:
    """ValueError where the tokenizers differ and the settings take one alone, or they cannot be set side by side;
    `own`: the student's, where known."""
    if not differ(teacher, student):
        return
    if not config.objective.takes_other_tokens:
        try:
            check_same_tokens(teacher, student, ("teacher", "student"))
        except ValueError as error:
            raise ValueError(f"{error}, or learn by `uld` alone, which takes two") from None
    for name in ("on_policy", "spans"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"{name}: goes by the teacher's word on the student's own tokens, and teacher and student have two "
                f"tokenizers; leave out `{name}`, or take models of one family"
            )
    config.check_best_by(agreement=False)
    if own is not None:
        check_keeps_text(own, "student")
    if config.teacher is not None:
        check_keeps_text(config.teacher.tokenizer(), "teacher")
    if own is not None and _templated(config, own):
        raise ValueError(
            "uld: the chat template of the student is not the teacher's, so that two tokenizers read two texts; set "
            "`corpus.chat: false`"
        )


def _templated(config: DistillConfig, own: "PreTrainedTokenizerBase") -> bool:
    if config.corpus.chat is False or own.chat_template is None:
        return False
    return config.responses is not None or any(isinstance(one, Dialogue) for one in config.corpus.examples())
