"""Which tokens make a word: the spans of the span loss, where no chunker of phrases is at hand."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tasks.llm_distillation.losses import word_spans
from tasks.llm_distillation.losses.spans import OUTSIDE
from tasks.llm_distillation.text.packing import PADDING, Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def words(sequences: Sequences, tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    """(N,T) int64: the number of the word that a learned token belongs to, unlike that of any other word; OUTSIDE for
    tokens of none and for those that are not learned."""
    pieces, found, used = _pieces(tokenizer), np.full(sequences.ids.shape, OUTSIDE, np.int64), 0
    for row, documents in enumerate(sequences.document):
        for document in dict.fromkeys(documents[documents != PADDING].tolist()):
            own = documents == document
            own_pieces = [pieces[token] for token in sequences.ids[row][own]]
            ends = np.cumsum([len(piece) for piece in own_pieces])
            offsets = list(zip(ends - [len(piece) for piece in own_pieces], ends, strict=True))
            numbers = np.array(word_spans("".join(own_pieces), offsets))
            found[row, own] = np.where(numbers == OUTSIDE, OUTSIDE, numbers + used)
            used += len(numbers)
    return np.where(sequences.loss_mask, found, OUTSIDE)


def pairs(numbers: np.ndarray) -> int:
    """Neighbours of one word among the tokens that are predicted, in rows (N,T)."""
    predicted = numbers[:, 1:]
    return int(((predicted[:, 1:] == predicted[:, :-1]) & (predicted[:, 1:] != OUTSIDE)).sum())


@lru_cache(maxsize=2)
def _pieces(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What each token id adds to a text; a special token parts words."""
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(list(range(max(tokenizer.get_vocab().values()) + 1)))
    return [
        "\n" if number in special or token is None else _piece(tokenizer, token)
        for number, token in enumerate(tokens)
    ]


def _piece(tokenizer: "PreTrainedTokenizerBase", token: str) -> str:
    if "\N{LOWER ONE EIGHTH BLOCK}" in token:  # SentencePiece's space, which a lone token's decoding drops
        return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ")
    return tokenizer.convert_tokens_to_string([token])
