"""Where two tokenizers have read the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.text.alignment import (
    NONE,
    check_keeps_text,
    common,
    ends,
    own_beginning,
    partners,
    token_bytes,
)
from tests.tasks.llm_distillation import tiny

steps = st.lists(st.integers(0, 3), max_size=12)


@given(steps, steps)
def test_partners_are_the_last_that_end_together(own, other):
    own, other = (np.cumsum(one, dtype=np.int64) for one in (own, other))
    found = partners(own, other)
    for place, end in enumerate(own):
        last = place + 1 == len(own) or own[place + 1] != end
        there = [number for number, one in enumerate(other) if one == end]
        assert found[place] == (there[-1] if last and there else NONE)


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_the_common_beginning(own, other):
    size = common(own, other)
    assert own[:size] == other[:size]
    assert size == min(len(own), len(other)) or own[size] != other[size]


@pytest.fixture(scope="module")
def tokenizers():
    return tiny.tokenizer(300), tiny.tokenizer(
        420, text="Other words for other merges; " * 9 + tiny.TEXT[::-1]
    )


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30))
def test_tokens_tell_the_bytes_of_their_text(tokenizers, text):
    ends_of = []
    for tokenizer in tokenizers:
        pieces = token_bytes(tokenizer)
        places, read = ends([pieces[token] for token in tokenizer(text).input_ids], b"")
        assert read == text.encode()
        assert places[-1] == len(read)
        ends_of.append(places)
    assert partners(*ends_of)[-1] == len(ends_of[1]) - 1


def test_a_tokenizer_that_loses_spaces_is_refused():
    with pytest.raises(ValueError, match="tokens of the student do not keep the text"):
        check_keeps_text(tiny.word_tokenizer(), "student")


@pytest.mark.slow
@tiny.needs("lm_stories260k")
@tiny.needs("smollm2_135m_instruct")
def test_sentencepiece_and_byte_level_bpe_meet():
    own, other = (
        LanguageModel(name=name).tokenizer() for name in ("lm_stories260k", "smollm2_135m_instruct")
    )
    check_keeps_text(own, "student")
    check_keeps_text(other, "teacher")
    text = "Two words and naïve 日本 text,\n\nthen more."
    told = [tokenizer(text).input_ids for tokenizer in (own, other)]
    places = [
        ends([token_bytes(tokenizer)[token] for token in ids], own_beginning(tokenizer))
        for tokenizer, ids in zip((own, other), told, strict=True)
    ]
    assert [own_beginning(tokenizer) for tokenizer in (own, other)] == [b" ", b""]
    assert places[0][1] == places[1][1] == text.encode()
    paired = places[0][0][partners(places[0][0], places[1][0]) != NONE]
    words = [len(text[:stop].encode()) for stop in (3, 9, 13)]  # after "Two", "words", "and"
    assert set(words) <= set(paired.tolist())
