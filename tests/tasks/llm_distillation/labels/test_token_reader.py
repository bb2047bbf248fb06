from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tasks.llm_distillation.labels.kept_labels import KeptTokenLabels
from tasks.llm_distillation.labels.token_reader import Replayed, TokenReader, TokenStream, batch_of
from tasks.llm_distillation.losses import IGNORED
from tasks.llm_distillation.losses.teachers import SampledTeacher
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.text.corpus import Corpus
from tasks.model_distillation.label_reader import Place
from tests.tasks.llm_distillation import label_stages, tiny
from tests.tasks.llm_distillation.label_stages import LENGTH, labelled


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return label_stages.corpus(tmp_path_factory.mktemp("corpus"), rows=80)


@pytest.fixture(scope="module")
def kept(tiny_llama, text):
    return KeptTokenLabels.of(labelled(tiny_llama, text))


def numbers(batches):
    return [batch.sequences.tolist() for batch in batches]


def same(one, other):
    assert torch.equal(one.sequences, other.sequences)
    assert all(torch.equal(a, b) for a, b in zip(one.batch[:3], other.batch[:3], strict=True))
    pairs = zip(vars(one.teacher).values(), vars(other.teacher).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_an_epoch_is_an_order_of_all_that_depends_on_seed_and_epoch_alone(kept):
    reader = TokenReader(kept, batch_size=4, seed=1)
    order = reader.order(0)
    assert sorted(order.tolist()) == list(range(kept.facts["sequences"]))
    np.testing.assert_array_equal(order, TokenReader(kept, batch_size=2, seed=1).order(0))
    assert order.tolist() != reader.order(1).tolist()
    assert order.tolist() != TokenReader(kept, batch_size=4, seed=2).order(0).tolist()
    assert numbers(reader.epoch(0)) == order[: 4 * reader.steps].reshape(-1, 4).tolist()


def test_what_is_read_ahead_is_what_is_read(kept):
    reader = TokenReader(kept, batch_size=4, seed=1)
    loader = DataLoader(TokenStream(reader, 3), batch_size=None)
    assert len(loader) == reader.steps
    for one, two, three in zip(reader.epoch(3), reader.batches(3), loader, strict=True):
        same(one, two)
        same(one, three)


def test_an_epoch_goes_on_where_it_stopped(kept):
    reader = TokenReader(kept, batch_size=4, seed=1)
    for one, other in zip(islice(reader.batches(0), 3, None), reader.epoch(0, first=3), strict=True):
        same(one, other)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_what_one_sees(kept, ranks):
    alone = numbers(TokenReader(kept, 4, seed=1).batches(0))
    shares = [
        numbers(TokenReader(kept, 4, seed=1, place=Place(rank, ranks)).batches(0)) for rank in range(ranks)
    ]
    assert len({len(share) for share in shares}) == 1
    for step, whole in enumerate(alone):
        assert sorted(number for share in shares for number in share[step]) == sorted(whole)


def test_the_teachers_word_stands_before_the_token_it_is_about(kept):
    batch = next(TokenReader(kept, 4, seed=1).batches(0))
    ids, labels = batch.batch.ids, batch.batch.labels
    learned = (labels[:, 1:] != IGNORED).flatten()
    assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])
    mass = batch.teacher.log_probs.exp().sum(1) + batch.teacher.tail
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-5, rtol=0)
    assert (batch.teacher.tail[~learned] == 1).all()
    assert (batch.teacher.tail[learned] < 1).all()
    told = kept.read(batch.sequences.numpy())
    assert torch.equal(batch.teacher.ids[learned], torch.cat([own.spoken.ids for own in told]))


def test_a_student_asks_by_the_rows_of_its_corpus(kept):
    rows = np.array([7, 2, 2, -1])
    tokens = batch_of([told for told in kept.read(np.array([7, 2, 2, 2])) if told])
    teacher = Replayed(kept)(rows, tokens)
    per_row = teacher.ids.reshape(4, LENGTH - 1, -1)
    assert torch.equal(per_row[1], per_row[2])
    assert (teacher.tail.reshape(4, -1)[3] == 1).all()
    assert teacher.log_probs.reshape(4, LENGTH - 1, -1)[3].isneginf().all()


@pytest.mark.parametrize("form", ["sampled", "full"])
def test_other_forms_are_read(tiny_llama, text, form):
    made = labelled(tiny_llama, text, labels={"form": form, "samples": 9})
    batch = next(TokenReader(KeptTokenLabels.of(made), 4, seed=1).batches(0))
    learned = (batch.batch.labels[:, 1:] != IGNORED).flatten()
    if isinstance(batch.teacher, SampledTeacher):
        assert torch.equal(batch.teacher.counts.sum(1), 9 * learned.long())
    else:
        assert batch.teacher.ids.shape[1] == made.facts["vocabulary"]
        mass = batch.teacher.log_probs[learned].exp().sum(1)
        torch.testing.assert_close(mass, torch.ones_like(mass))


def test_labels_of_something_else_are_refused_by_the_field_that_differs(
    kept, tiny_llama, text, tmp_path, words
):
    tokenizer = LanguageModel.model_validate(str(tiny_llama)).tokenizer()
    corpus = Corpus.model_validate(str(text))
    kept.check_corpus(corpus, tokenizer, LENGTH)
    other_text = Corpus.model_validate(str(label_stages.corpus(tmp_path, rows=30)))
    with pytest.raises(ValueError, match="token labels: corpus_digest is "):
        kept.check_corpus(other_text, tokenizer, LENGTH)
    with pytest.raises(ValueError, match="token labels: tokenizer_digest is "):
        kept.check_corpus(corpus, tiny.tokenizer(280), LENGTH)
    with pytest.raises(ValueError, match="token labels: length is 32, expected 64"):
        kept.check_corpus(corpus, tokenizer, 64)
    stranger = LanguageModel.model_validate(
        str(tiny.saved(tmp_path / "m", tiny.llama(len(words), seed=1), words))
    )
    with pytest.raises(ValueError, match="token labels: teacher_digest is "):
        kept.check(teacher_digest=stranger.content_digest())


@pytest.mark.parametrize(("size", "ranks"), [(3, 2), (1000, 1)])
def test_a_batch_that_cannot_be_shared_out_is_refused(kept, size, ranks):
    with pytest.raises(ValueError, match="batch_size"):
        TokenReader(kept, size, seed=1, place=Place(0, ranks))
