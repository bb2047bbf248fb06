"""Packed sequences of one tokenizer, told in another."""

import json

import numpy as np
import pytest

from tasks.llm_distillation.text.alignment import NONE, token_bytes
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.packing import PADDING
from tasks.llm_distillation.text.retold import Retold
from tasks.llm_distillation.text.sequences import sequences
from tests.tasks.llm_distillation import tiny


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Two tokenizers, short texts packed by the first, and what the second makes of them."""
    file = tmp_path_factory.mktemp("told") / "texts.jsonl"
    lines = [line[:50] for line in tiny.TEXT.split("\n") if line]
    file.write_text("\n".join(json.dumps({"text": line + " é日"}) for line in lines))
    own, other = tiny.tokenizer(300), tiny.tokenizer(420, text=tiny.TEXT[::-1])
    packed = sequences(Corpus(path=str(file)), own, 64)
    return own, other, packed, Retold(packed, own, other, 128)


def read(tokenizer, ids, position, place):
    """The bytes of a document up to and with the token at `place`."""
    start = place - position[place]
    return b"".join(token_bytes(tokenizer)[token] for token in ids[start : place + 1])


def test_partners_have_read_the_same(told):
    own, other, packed, retold = told
    rows = np.arange(len(packed))
    ids, position, places = retold(rows)
    counted = 0
    for row, place in zip(*np.nonzero(places != NONE), strict=True):
        there, at = divmod(int(places[row, place]), ids.shape[1])
        mine = read(own, packed.ids[row], packed.position[row], place)
        assert there == row
        assert mine == read(other, ids[row], position[row], at)
        counted += 1
    assert counted > 0.3 * packed.loss_mask.sum()
    assert (packed.document[:, :-1][places != NONE] != PADDING).all()


def test_a_tokenizer_has_a_partner_for_each_of_its_own_labels(told):
    own, _, packed, _ = told
    ids, _, places = Retold(packed, own, own, None)(np.arange(len(packed)))
    assert (places != NONE)[packed.loss_mask[:, 1:]].all()
    for row, document in enumerate(packed.document):
        size = int((document != PADDING).sum())
        ended = packed.ids[row, :size] != own.eos_token_id
        assert (ids[row, : ended.sum()] == packed.ids[row, :size][ended]).all()


def test_no_row_has_no_documents(told):
    *_, retold = told
    ids, position, places = retold(np.array([-1, -1]))
    assert ids.shape == (2, 1)
    assert (places == NONE).all()
    assert not position.any()


def test_what_the_teacher_cannot_read_has_no_partner(told):
    own, other, packed, _ = told
    ids, _, places = Retold(packed, own, other, 4)(np.array([0]))
    assert ids.shape[1] == 4 * len(set(packed.document[0]) - {PADDING})
    whole = Retold(packed, own, other, None)(np.array([0])).places
    assert 0 < (places != NONE).sum() < (whole != NONE).sum()


def test_a_text_that_was_cut_is_not_begun_anew(told, tmp_path):
    own, other, *_ = told
    (tmp_path / "long.txt").write_text(tiny.TEXT[:300])
    packed = sequences(Corpus(path=str(tmp_path / "long.txt"), pack=False), own, 64)
    ids, _, places = Retold(packed, own, other, None)(np.arange(len(packed)))
    assert [row[0] == other.bos_token_id for row in ids] == [True] + [False] * (len(packed) - 1)
    assert ((places != NONE).sum(1) > 10)[:-1].all()
