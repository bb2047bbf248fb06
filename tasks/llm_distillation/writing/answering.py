"""Answers of a model to the prompts of a corpus, batch after batch, from where an earlier attempt ended."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from orchestrator.task import Context, Progress
from tasks.llm_distillation.models.vocabulary import vocabulary_size
from tasks.llm_distillation.text.chat import openings
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.examples import Dialogue, Example
from tasks.llm_distillation.writing.engines import Engine, Writer, engine_for
from tasks.llm_distillation.writing.generation import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Written:
    """What a model wrote."""

    row: int
    """Of the prompt in the corpus."""
    text: str
    ended: bool
    """Whether the model ended it, rather than the limit of tokens."""


def prompt_rows(examples: Sequence[Example], *, answered: bool) -> list[int]:
    """The rows with a prompt; with `answered` those alone that have a response to compare with."""
    return [
        row
        for row, example in enumerate(examples)
        if isinstance(example, Dialogue) and (example.reference or not answered) and example.opening.turns
    ]


def prompts_of(
    examples: Sequence[Example],
    rows: Sequence[int],
    tokenizer: "PreTrainedTokenizerBase",
    corpus: Corpus,
    length: int,
) -> dict[int, list[int]]:
    """The tokens after which the assistant is to speak, of these rows; longer ones than `length` are left out."""
    dialogues = [example for row in rows if isinstance(example := examples[row], Dialogue)]
    found = zip(rows, openings([dialogue.opening for dialogue in dialogues], tokenizer, corpus), strict=True)
    return {row: ids for row, ids in found if len(ids) <= length}


def answering_engine(
    tokenizer: "PreTrainedTokenizerBase", sampling: Sampling, *, length: int, batch: int, device: str
) -> Engine:
    """What writes answers to prompts of at most `length` tokens. Raises as `engine_for`."""
    return engine_for(
        sampling.engine, vocabulary=vocabulary_size(tokenizer), end=tokenizer.eos_token_id,
        length=length + sampling.new_tokens, batch=batch, device=device,
    )  # fmt: skip


def answer(
    writer: Writer,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Mapping[int, list[int]],
    sampling: Sampling,
    *,
    sample: int,
    batch: int,
    context: Context,
) -> list[Written]:
    """One answer a prompt. The random numbers depend on `sample` and the prompt's row alone, so that all models
    that are asked in one stage have the same. Resumable after every `batch` of prompts."""
    rows, saved = list(prompts), context.load_progress()
    written = [] if saved is None else [Written(**told) for told in saved.facts["written"]]

    def progress() -> Progress:
        return Progress({}, {"written": [asdict(one) for one in written]})

    while len(written) < len(rows):
        asked = rows[len(written) : len(written) + batch]
        seeds = [context.seed("sample", item={"sample": sample, "row": row}) for row in asked]
        ids = writer([prompts[row] for row in asked], seeds, sampling)
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        ended = [own[-1] == tokenizer.eos_token_id for own in ids]
        written += [Written(*one) for one in zip(asked, texts, ended, strict=True)]
        context.log({"answers": len(written)}, step=len(written))
        context.save_progress(progress)
    return written
