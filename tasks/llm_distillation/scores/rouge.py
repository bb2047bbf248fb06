"""ROUGE-L, and the number that an answer comes to.

Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries"; words as in the package rouge-score
without stemming, letters of all scripts counting.
"""

import re
from collections.abc import Sequence
from typing import Literal

_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
MARK = "####"
"""What GSM8K writes before the final number."""

Answer = Literal["marked", "last_number"]


def rouge_l(text: str, reference: str) -> float:
    """The F-measure, between 0 and 1, of the longest common subsequence of their words in lower case; 0 where
    either has no word."""
    words, expected = (_WORD.findall(part.lower()) for part in (text, reference))
    common = longest_common_subsequence(words, expected)
    return 2 * common / (len(words) + len(expected)) if common else 0.0


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by adding bit rows (Hyyro 2004): a zero for each word of `first` that is matched."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(first) - row.bit_count()


def exact_match(text: str, reference: str, answer: Answer) -> bool:
    """Whether both come to the same number; False where the text comes to none."""
    found, expected = final_number(text, answer), final_number(reference, answer)
    return found is not None and found == expected


def final_number(text: str, answer: Answer) -> float | None:
    """The number after the last ####, or the last of all; None where there is none."""
    if answer == "marked":
        _, mark, text = text.rpartition(MARK)
        numbers = _NUMBER.findall(text)[:1] if mark else []
    else:
        numbers = _NUMBER.findall(text)[-1:]
    return float(numbers[0].replace(",", "")) if numbers else None
