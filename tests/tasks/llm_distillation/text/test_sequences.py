import json

import numpy as np
import pytest

from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.sequences import sequences
from tests.tasks.llm_distillation import tiny


@pytest.fixture
def pairs(tmp_path):
    """Ten prompts and responses that grow, one without a response."""
    rows = [{"prompt": f"say {n}", "response": "word " * n} for n in range(10)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "pairs.jsonl"


def test_a_corpus_in_sequences(pairs, words):
    made = sequences(Corpus(path=str(pairs)), words, 32)
    assert made.ids.shape == made.loss_mask.shape == made.document.shape == made.position.shape
    assert (len(made), made.ids.shape[1], made.counts["sequences"]) == (len(made.ids), 32, len(made))
    assert made.ids.dtype == made.document.dtype == made.position.dtype == np.int32
    assert (made.counts["rows"], made.counts["empty"], made.counts["dropped"]) == (10, 1, 0)
    assert made.counts["tokens"] + made.counts["padding"] == made.ids.size
    told = words.decode(made.ids[made.document == 1])
    assert told == f"<s>say 2\n{'word ' * 2}</s>"
    assert words.decode(made.ids[(made.document == 1) & made.loss_mask]) == f"{'word ' * 2}</s>"


def test_is_made_once_for_the_same_content(pairs, words, tmp_path):
    first = sequences(Corpus(path=str(pairs)), words, 32)
    assert sequences(Corpus(path=str(pairs)), words, 32) is first
    assert sequences(Corpus(path=str(pairs)), words, 64) is not first
    assert not first.ids.flags.writeable


def test_one_a_sequence_where_packing_is_off(pairs, words):
    made = sequences(Corpus(path=str(pairs), pack=False), words, 64)
    assert len(made) == made.counts["documents"] == 9
    assert len(sequences(Corpus(path=str(pairs)), words, 64)) < 9


def test_what_is_too_long(pairs, words, caplog):
    cut = sequences(Corpus(path=str(pairs)), words, 16)
    dropped = sequences(Corpus(path=str(pairs), over_long="drop"), words, 16)
    assert cut.counts["truncated"] == dropped.counts["dropped"] == cut.counts["over_long"] > 0
    assert cut.counts["documents"] == 9
    assert f"of 10 rows at length 16: 1 empty, {cut.counts['truncated']} truncated" in caplog.text


def test_nothing_to_learn_is_one_clear_line(pairs, words):
    with pytest.raises(ValueError, match=r"of 10 rows none has a token to learn within 4 .*9 dropped"):
        sequences(Corpus(path=str(pairs)), words, 4)


@tiny.needs("lm_stories260k")
def test_a_real_text_comes_back_whole():
    from tasks.llm_distillation.models.language_model import LanguageModel

    tokenizer = LanguageModel(name="lm_stories260k").tokenizer()
    corpus = Corpus(path="shakespeare.txt.gz", split=(0.0, 0.05))
    made = sequences(corpus, tokenizer, 128)
    ids = made.ids[made.document >= 0][np.argsort(made.document[made.document >= 0], kind="stable")]
    (example,) = corpus.examples()
    assert tokenizer.decode(ids, skip_special_tokens=True) == example.text
