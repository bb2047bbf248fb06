"""From examples to tokens: chat templates, prompts with their responses, plain texts; and which tokens are learned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.data.files import first_line
from tasks.llm_distillation.models.quiet import quiet
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.examples import Dialogue, Example, Plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """The tokens of one example."""

    ids: np.ndarray
    """(n,) int32."""
    learned: np.ndarray
    """(n,) bool: which of them are the response, or all of them."""
    plain: bool
    """Whether it is a text that may be cut anywhere."""


@dataclass(frozen=True)
class _Piece:
    """Text that is tokenised by itself, so that a prompt's tokens are those that generation starts from."""

    text: str
    learned: bool
    begins: bool
    """Whether the tokenizer puts its begin token before it; a chat template writes its own."""
    until_end: bool = False
    """Whether it is learned up to the end token, without what a template writes after that."""


def samples(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", corpus: Corpus
) -> list[Sample]:
    """One sample an example, ended by the tokenizer's end token where it has one; an example without text, and a
    dialogue without a response, gives an empty one. Raises ValueError where a chat template is needed and missing."""
    pieces = [list(_pieces(example, tokenizer, corpus)) for example in examples]
    encoded = _encoded([piece for own in pieces for piece in own], tokenizer)
    return [
        _sample(own, [next(encoded) for _ in own], tokenizer.eos_token_id, plain=isinstance(example, Plain))
        for own, example in zip(pieces, examples, strict=True)
    ]


def openings(
    dialogues: Sequence[Dialogue], tokenizer: "PreTrainedTokenizerBase", corpus: Corpus
) -> list[list[int]]:
    """The tokens after which the assistant is to speak, for dialogues that end with somebody else."""
    begins = not _templated(tokenizer, corpus)
    texts = [
        _Piece(_opening(dialogue, tokenizer, corpus), learned=False, begins=begins) for dialogue in dialogues
    ]
    encoded = _encoded(texts, tokenizer)
    return [_without_end(ids, tokenizer.eos_token_id) if begins else ids for ids in encoded]


def _templated(tokenizer: "PreTrainedTokenizerBase", corpus: Corpus) -> bool:
    if corpus.chat and tokenizer.chat_template is None:
        raise ValueError(
            f"corpus {corpus.path}: the tokenizer has no chat template; take a chat model, or set `chat: false` and a "
            "`template`"
        )
    return tokenizer.chat_template is not None if corpus.chat is None else corpus.chat


def _pieces(example: Example, tokenizer: "PreTrainedTokenizerBase", corpus: Corpus) -> Iterator[_Piece]:
    if isinstance(example, Plain):
        if example.text:
            yield _Piece(example.text, learned=True, begins=True)
    elif example.reference and _templated(tokenizer, corpus):
        yield from _chat_pieces(example, tokenizer, corpus)
    elif example.reference:
        yield _Piece(_opening(example.opening, tokenizer, corpus), not corpus.response_only, begins=True)
        yield _Piece(example.reference, learned=True, begins=False)


def _opening(dialogue: Dialogue, tokenizer: "PreTrainedTokenizerBase", corpus: Corpus) -> str:
    if _templated(tokenizer, corpus):
        return _rendered(dialogue, tokenizer, corpus, ask=True)
    if [turn.role for turn in dialogue.turns] != ["user"]:
        raise ValueError(
            f"corpus {corpus.path}: a chat of {len(dialogue.turns) + 1} messages needs a chat template, and the "
            "tokenizer has none; take a chat model, or a corpus of prompts and responses"
        )
    return corpus.template.replace("{prompt}", dialogue.turns[0].content)


def _chat_pieces(
    dialogue: Dialogue, tokenizer: "PreTrainedTokenizerBase", corpus: Corpus
) -> Iterator[_Piece]:
    """The template's text, cut before and after each message of the assistant."""
    done = ""
    for number, turn in enumerate(dialogue.turns):
        if turn.role != "assistant":
            continue
        before = _rendered(Dialogue(dialogue.turns[:number]), tokenizer, corpus, ask=True)
        after = _rendered(Dialogue(dialogue.turns[: number + 1]), tokenizer, corpus, ask=False)
        if not (before.startswith(done) and after.startswith(before)):
            raise ValueError(
                f"corpus {corpus.path}: the chat template writes earlier messages anew in later turns, so that the "
                "responses cannot be told from it; set `chat: false`, or use prompts and responses"
            )
        yield _Piece(before[len(done) :], not corpus.response_only, begins=False)
        yield _Piece(after[len(before) :], learned=True, begins=False, until_end=corpus.response_only)
        done = after


def _rendered(dialogue: Dialogue, tokenizer: "PreTrainedTokenizerBase", corpus: Corpus, ask: bool) -> str:
    from jinja2 import TemplateError

    messages = [{"role": turn.role, "content": turn.content} for turn in dialogue.turns]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except TemplateError as error:
        roles = ", ".join(turn.role for turn in dialogue.turns) or "nobody"
        raise ValueError(
            f"corpus {corpus.path}: the chat template refuses messages of {roles} "
            f"({first_line(error)}); correct the corpus, or set `chat: false`"
        ) from error


def _encoded(pieces: Sequence[_Piece], tokenizer: "PreTrainedTokenizerBase") -> Iterator[list[int]]:
    """Token ids of each piece in turn; those that begin a text and the others in one call each."""
    kinds = {
        begins: iter(_ids([piece.text for piece in pieces if piece.begins == begins], tokenizer, begins))
        for begins in (True, False)
    }
    for piece in pieces:
        yield next(kinds[piece.begins])


def _ids(texts: list[str], tokenizer: "PreTrainedTokenizerBase", special: bool) -> list[list[int]]:
    if not texts:
        return []
    with quiet():
        return tokenizer(texts, add_special_tokens=special, return_attention_mask=False).input_ids


def _sample(pieces: Sequence[_Piece], encoded: Sequence[list[int]], end: int | None, plain: bool) -> Sample:
    ids: list[int] = []
    learned: list[bool] = []
    for piece, own in zip(pieces, encoded, strict=True):
        kept = _without_end(own, end) if piece.begins else own
        ids += kept
        count = kept.index(end) + 1 if piece.until_end and end in kept else len(kept)
        learned += [piece.learned and place < count for place in range(len(kept))]
    if ids and end is not None and pieces[0].begins and ids[-1] != end:
        ids.append(end)
        learned.append(pieces[-1].learned)
    return Sample(np.array(ids, np.int32), np.array(learned, bool), plain)


def _without_end(ids: list[int], end: int | None) -> list[int]:
    return ids[:-1] if ids and ids[-1] == end else ids
