"""Two tokenizers on one text: the bytes of each token, and the places where both have read the same. Pure.

The idea of walking two tokenisations by the bytes they cover is that of GOLD in TRL.
"""

import functools
import re
from typing import TYPE_CHECKING

import numpy as np

from tasks.llm_distillation.models.vocabulary import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NONE = -1
"""In place of a partner."""
PROBE = "Two  words,\nNaïve CAPITALS (and 3.14)."
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@functools.lru_cache(maxsize=4)
def token_bytes(tokenizer: "PreTrainedTokenizerBase") -> list[bytes]:
    """What each token id adds to a text in UTF-8; special tokens add nothing.

    Byte-level tokens are written in GPT-2's alphabet of bytes, SentencePiece's with a block for the space and
    <0x0A> for a lone byte.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(vocabulary_size(tokenizer))))
    added = {token: entry.content for token, entry in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids)
    special |= {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    alphabet = _byte_alphabet() if _is_byte_level(tokenizer) else None

    def of(number: int, token: str | None) -> bytes:
        if number in special or token is None:
            return b""
        if number in added:
            return added[number].encode()
        if alphabet is not None:
            return bytes(alphabet[letter] for letter in token if letter in alphabet)
        lone = _BYTE.fullmatch(token)
        return (
            bytes([int(lone[1], 16)]) if lone else token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
        )

    return [of(number, token) for number, token in enumerate(tokens)]


def check_keeps_text(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """ValueError where tokens do not tell the bytes of their text."""
    pieces = token_bytes(tokenizer)
    said = b"".join(pieces[token] for token in tokenizer(PROBE).input_ids)
    if said.strip() != PROBE.encode():
        raise ValueError(
            f"uld: the tokens of the {name} do not keep the text (of {PROBE!r} they give {said!r}), so that they "
            "cannot be set beside those of another tokenizer; take a model with a byte-level or SentencePiece one"
        )


def partners(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each token that ends at byte `own` (n,), the token of `other` (m,) after which as much is read; NONE where
    no token of `other` ends there. Ends ascend; of several at one place, on either side, it is the last."""
    if not len(own) or not len(other):
        return np.full(len(own), NONE)
    found = np.searchsorted(other, own, side="right") - 1
    last = np.append(own[1:] != own[:-1], True)
    same = (found >= 0) & (other[np.maximum(found, 0)] == own) & last
    return np.where(same, found, NONE)


@functools.lru_cache(maxsize=4)
def own_beginning(tokenizer: "PreTrainedTokenizerBase") -> bytes:
    """What the tokenizer itself puts before a text: a space, as SentencePiece does, or nothing."""
    pieces = token_bytes(tokenizer)
    return b"".join(pieces[token] for token in tokenizer("a").input_ids).removesuffix(b"a")


def begin_token(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """What stands before each text; None where nothing does."""
    first = int(tokenizer("a").input_ids[0])
    return first if first == tokenizer.bos_token_id else None


def ends(pieces: list[bytes], beginning: bytes) -> tuple[np.ndarray, bytes]:
    """Where each token ends in the text, in bytes, and the text, without the `own_beginning` of their tokenizer."""
    whole = b"".join(pieces)
    text = whole.removeprefix(beginning)
    places = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) - (len(whole) - len(text))
    return np.maximum(places, 0), text


def common(own: bytes, other: bytes) -> int:
    """As many bytes at the beginning are the same; a tokenizer that rewrites characters reads another text after."""
    size = min(len(own), len(other))
    apart = np.frombuffer(own[:size], np.uint8) != np.frombuffer(other[:size], np.uint8)
    return int(apart.argmax()) if apart.any() else size


def _is_byte_level(tokenizer: "PreTrainedTokenizerBase") -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in str(backend.decoder)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Letter to byte: printable Latin-1 stands for itself, the others for letters from 256 up, in order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}
