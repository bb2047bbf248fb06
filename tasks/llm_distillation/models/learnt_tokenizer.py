"""The setting of a tokenizer that is learnt from a corpus.

Source: byte pair encoding of bytes, Radford et al. 2019, Language Models are Unsupervised Multitask Learners.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import Field

from orchestrator.task import Settings
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.examples import Example, Plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = "<s>", "</s>"
SMALLEST = 256 + 2
"""Tokens that any text can be written with: the bytes, start and end."""


class LearntTokenizer(Settings):
    """Merges the most frequent pairs of bytes of a corpus; the same for the same text."""

    corpus: Corpus
    """What it is learnt from: all that its rows say."""
    vocabulary: int = Field(default=512, ge=SMALLEST)
    """Tokens at most, the 256 bytes, <s> and </s> among them."""

    def content_digest(self) -> str:
        """64 hexadecimal digits that depend on the corpus's content and the size."""
        return hashlib.sha256(f"{self.corpus.content_digest()} {self.vocabulary}".encode()).hexdigest()

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """It puts <s> before a text, as Llama's does. Learnt once a process for the same content. Raises ValueError
        as `Corpus.examples`."""
        return _learnt(self, self.content_digest())


@lru_cache(maxsize=2)
def _learnt(settings: LearntTokenizer, digest: str) -> "PreTrainedTokenizerBase":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    learnt.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learnt.train_from_iterator(_texts(settings.corpus.examples()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learnt, bos_token=START, eos_token=END)


def _texts(examples: Sequence[Example]) -> Iterator[str]:
    for example in examples:
        if isinstance(example, Plain):
            yield example.text
        else:
            yield from (turn.content for turn in example.turns)
