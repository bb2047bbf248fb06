"""A corpus as sequences of tokens: what every task on text starts from."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from orchestrator.task import Facts
from tasks.llm_distillation.models.vocabulary import padding_id
from tasks.llm_distillation.text.chat import samples
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.examples import Example
from tasks.llm_distillation.text.packing import Sequences, fitted, pack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def sequences(corpus: Corpus, tokenizer: "PreTrainedTokenizerBase", length: int) -> Sequences:
    """The corpus in sequences of `length` tokens, made once a process for the same content. Not to be changed.

    Its `counts` say what was empty, too long, cut or left out. Raises ValueError as `Corpus.examples`, and where
    no token is left to learn.
    """
    return _sequences(corpus, corpus.content_digest(), tokenizer, length)


@lru_cache(maxsize=4)
def _sequences(corpus: Corpus, digest: str, tokenizer: "PreTrainedTokenizerBase", length: int) -> Sequences:
    return packed(corpus.examples(), corpus, tokenizer, length)


def packed(
    examples: Sequence[Example], corpus: Corpus, tokenizer: "PreTrainedTokenizerBase", length: int
) -> Sequences:
    """Examples in sequences of `length` tokens, read and packed as `corpus` says; warns of what is lost. Raises as
    `sequences`."""
    documents, counts = fitted(samples(examples, tokenizer, corpus), length, corpus.over_long)
    if not documents:
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        raise ValueError(
            f"corpus {corpus.path}: of {len(examples)} rows none has a token to learn within {length} ({told}); name "
            "the field of the `response`, or raise `length`"
        )
    made = pack(documents, length, padding_id(tokenizer), {"rows": len(examples), **counts}, corpus.pack)
    for array in (made.ids, made.loss_mask, made.document, made.position):
        array.setflags(write=False)
    _warn_of_lost(corpus, made.counts, length)
    return made


def _warn_of_lost(corpus: Corpus, counts: Facts, length: int) -> None:
    lost = {name: counts[name] for name in ("empty", "truncated", "dropped") if counts[name]}
    if lost:
        told = ", ".join(f"{count:,} {name}" for name, count in lost.items())
        log.warning("corpus %s: of %d rows at length %d: %s", corpus.path, counts["rows"], length, told)
