"""The sequences of a student in the tokens of a teacher with another tokenizer."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.llm_distillation.models.vocabulary import padding_id
from tasks.llm_distillation.text.alignment import (
    NONE,
    begin_token,
    common,
    ends,
    own_beginning,
    partners,
    token_bytes,
)
from tasks.llm_distillation.text.packing import PADDING, Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Told(NamedTuple):
    """B sequences of a student as S tokens of the teacher each."""

    ids: np.ndarray
    """(B,S): token ids."""
    position: np.ndarray
    """(B,S): place of each in its own document; 0 for padding."""
    places: np.ndarray
    """(B,T-1): for each position of the student but the last of a sequence, the one of B * S of the teacher at which
    both have read the same text and are asked for what follows; NONE where there is none."""


class _Document(NamedTuple):
    """One of a student's sequence."""

    start: int
    """Its first place."""
    ends: np.ndarray
    """Where its tokens end in the text, in bytes."""
    text: bytes
    continued: bool
    """Whether it goes on with a text that was cut, so that no begin token stands before it."""


class Retold:
    """Tells the documents of `sequences`, of one tokenizer, in another."""

    def __init__(
        self,
        sequences: Sequences,
        own: "PreTrainedTokenizerBase",
        other: "PreTrainedTokenizerBase",
        limit: int | None,
    ) -> None:
        """`limit`: tokens that the reader of `other` takes; the end of a longer document has no partner."""
        self._sequences, self._other, self._limit = sequences, other, limit
        self._own_pieces, self._other_pieces = token_bytes(own), token_bytes(other)
        self._own_beginning, self._other_beginning = own_beginning(own), own_beginning(other)
        self._begins, self._other_begins = begin_token(own), begin_token(other)

    def __call__(self, rows: np.ndarray) -> Told:
        """These rows; one below 0 has no documents."""
        documents = [self._documents(row) for row in rows.tolist()]
        read = iter(self._read([one for of_row in documents for one in of_row]))
        lines = [[(one, next(read)) for one in of_row] for of_row in documents]
        size = max(1, *(sum(len(told) for _, told in line) for line in lines))
        ids = np.full((len(rows), size), padding_id(self._other), np.int64)
        position = np.zeros_like(ids)
        found = np.full((len(rows), self._sequences.ids.shape[1] - 1), NONE)
        for row, line in enumerate(lines):
            begin = 0
            for document, told in line:
                ids[row, begin : begin + len(told)] = told
                position[row, begin : begin + len(told)] = np.arange(len(told))
                own = self._partners(document, told)
                there = np.where(own == NONE, NONE, own + row * size + begin)
                found[row, document.start : document.start + len(own)] = there
                begin += len(told)
        return Told(ids, position, found)

    def _documents(self, row: int) -> list[_Document]:
        if row < 0:
            return []
        numbers, ids = self._sequences.document[row], self._sequences.ids[row]
        found = []
        for number in dict.fromkeys(numbers[numbers != PADDING].tolist()):
            own = np.flatnonzero(numbers == number)
            pieces = [self._own_pieces[token] for token in ids[own]]
            continued = self._begins is not None and ids[own[0]] != self._begins
            found.append(_Document(int(own[0]), *ends(pieces, self._own_beginning), continued))
        return found

    def _read(self, documents: list[_Document]) -> list[list[int]]:
        """Tokens of each text, begun as the tokenizer begins one, not ended, cut at the limit."""
        if not documents:
            return []
        texts = [one.text.decode("utf-8", errors="ignore") for one in documents]
        encoded = self._other(texts, return_attention_mask=False).input_ids
        found, end = [], self._other.eos_token_id
        for document, ids in zip(documents, encoded, strict=True):
            first = 1 if document.continued and ids[:1] == [self._other_begins] else 0
            last = len(ids) - 1 if ids[-1:] == [end] else len(ids)
            found.append(ids[first:last][: self._limit])
        return found

    def _partners(self, document: _Document, told: list[int]) -> np.ndarray:
        """Of each token but the last, after which nothing is asked."""
        places = document.ends[:-1]
        others, read = ends([self._other_pieces[token] for token in told], self._other_beginning)
        found = partners(places, others)
        return np.where(places <= common(document.text, read), found, NONE)
