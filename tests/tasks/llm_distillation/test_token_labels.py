import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tasks.llm_distillation.labels.kept_labels import KeptTokenLabels
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.model_artifact import model_output
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.packing import model_inputs
from tasks.llm_distillation.text.sequences import sequences
from tasks.llm_distillation.token_labels import LabelTokens, TokenLabelConfig
from tests.tasks.harness import KilledError, MemoryFiles, equal, run_task
from tests.tasks.llm_distillation import label_stages, tiny
from tests.tasks.llm_distillation.label_stages import LENGTH, labelled, settings


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return label_stages.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def kept(tiny_llama, text):
    return labelled(tiny_llama, text)


def spoken(teacher, corpus, number):
    """The log-probabilities (P,V) of the teacher for the learned tokens of a sequence, and where it stands."""
    model = LanguageModel.model_validate(str(teacher))
    found = sequences(Corpus.model_validate(str(corpus)), model.tokenizer(), LENGTH)
    with torch.no_grad():
        given = model_inputs(found.ids[[number]], found.position[[number]], "cpu")
        logits = model.load("cpu")(**given).logits[0, :, : model.vocabulary]
    learned = found.loss_mask[number]
    return torch.log_softmax(logits, 1)[np.flatnonzero(learned) - 1], found, learned


def test_labels_are_the_teachers_for_the_token_that_follows(kept, tiny_llama, text):
    labels = KeptTokenLabels.of(kept)
    for number in (0, 13):
        logprobs, found, learned = spoken(tiny_llama, text, number)
        (told,) = labels.read(np.array([number]))
        np.testing.assert_array_equal(told.row.tokens, found.ids[number])
        np.testing.assert_array_equal(told.row.learned, learned)
        np.testing.assert_array_equal(told.row.position, found.position[number])
        values = logprobs.gather(1, told.spoken.ids)
        torch.testing.assert_close(values, told.spoken.log_probs, atol=0.08, rtol=0)
        assert (values.min(1).values >= logprobs.topk(12, 1).values.min(1).values - 1e-5).all()
        rest = 1 - logprobs.topk(12, 1).values.exp().sum(1)
        torch.testing.assert_close(told.spoken.tail, rest, atol=0.002, rtol=0)


def test_vocabulary_padding_is_cut(kept, tiny_llama):
    model = LanguageModel.model_validate(str(tiny_llama))
    assert model.config().vocab_size == model.vocabulary + 8
    assert kept.facts["vocabulary"] == model.vocabulary
    labels = KeptTokenLabels.of(kept)
    assert max(int(told.spoken.ids.max()) for told in labels.read(np.arange(20))) < model.vocabulary


def test_metrics_say_bytes_and_losses(kept):
    sizes = [shard.facts["label_bytes"] for shard in kept.shards]
    assert kept.metrics["tokens"] == sum(shard.facts["positions"] for shard in kept.shards)
    assert kept.metrics["bytes_per_token"] == sum(sizes) / kept.metrics["tokens"]
    assert 0 < kept.metrics["kl_kept"] < 13 * 0.0065**2 / 12
    assert kept.metrics["kl_kept"] < kept.metrics["kl"]
    assert kept.metrics["set_aside"] == 0
    paces = kept.shards[0].curves[-1][1]
    assert 0 < paces["tokens_per_second"] <= paces["teacher_tokens_per_second"]


def drawn(told, vocabulary):
    """How often each token (P,V) was drawn."""
    counts = torch.zeros(len(told.spoken.ids), vocabulary, dtype=torch.long)
    return counts.scatter_add(1, told.spoken.ids, told.spoken.counts.long())


def test_more_draws_than_tokens(tmp_path):
    """From a teacher that knows few tokens and is sure of none most are in nearly every set."""
    words = tiny.word_tokenizer()
    teacher = tiny.saved(tmp_path / "teacher", tiny.llama(len(words)), words)
    texts = tiny.word_texts(tmp_path / "texts.jsonl", rows=15)
    labels = {"form": "sampled", "samples": 30}
    made = labelled(teacher, texts, labels=labels, sequences_per_shard=7)
    logprobs, _, learned = spoken(teacher, texts, 1)
    (told,) = KeptTokenLabels.of(made).read(np.array([1]))
    counts = drawn(told, len(words))
    assert len(counts) == learned.sum()
    assert (counts.sum(1) == 30).all()
    likely = 30 * logprobs.exp()
    assert ((counts - likely) ** 2 / likely.clamp_min(1)).sum(1).max() < 100


def test_all_tokens_of_a_vocabulary(tmp_path):
    teacher = tiny.word_folder(tmp_path / "teacher")
    texts = tiny.word_texts(tmp_path / "texts.jsonl", rows=15)
    made = labelled(teacher, texts, labels={"k": len(tiny.WORDS) + 3}, sequences_per_shard=7)
    logprobs, _, _ = spoken(teacher, texts, 1)
    (told,) = KeptTokenLabels.of(made).read(np.array([1]))
    values = logprobs.gather(1, told.spoken.ids)
    torch.testing.assert_close(values, told.spoken.log_probs, atol=0.08, rtol=0)
    assert (told.spoken.ids.sort(1).values == torch.arange(logprobs.shape[1])).all()
    assert told.spoken.tail.max() < 1e-6


@pytest.mark.parametrize("form", ["top_k", "sampled", "full"])
def test_killed_and_resumed_gives_the_same_bytes(tiny_llama, text, form):
    labels = {"form": form, "k": 5, "samples": 6}
    whole = labelled(tiny_llama, text, labels=labels)
    progress = {}
    with pytest.raises(KilledError):
        labelled(tiny_llama, text, labels=labels, progress=progress, kill_after=2)
    assert progress
    again = labelled(tiny_llama, text, labels=labels, progress=progress)
    assert equal(whole, again)
    assert [shard.output.tables for shard in whole.shards] == [shard.output.tables for shard in again.shards]


def test_size_of_shards_changes_no_label(kept, tiny_llama, text):
    other = labelled(tiny_llama, text, sequences_per_shard=7, batch_size=4)
    numbers = np.arange(14)
    pairs = zip(*(KeptTokenLabels.of(own).read(numbers) for own in (kept, other)), strict=True)
    for one, two in pairs:
        first, second = one.spoken.ids.argsort(1), two.spoken.ids.argsort(1)
        assert torch.equal(one.spoken.ids.gather(1, first), two.spoken.ids.gather(1, second))
        values = (one.spoken.log_probs.gather(1, first), two.spoken.log_probs.gather(1, second))
        torch.testing.assert_close(*values, atol=0.08, rtol=0)


def test_a_sequence_with_logits_that_are_not_finite_is_put_aside(tmp_path, words, text):
    model = tiny.llama(len(words), tie_word_embeddings=False)
    found = sequences(Corpus.model_validate(str(text)), words, LENGTH)
    own = [set(row.tolist()) for row in found.ids]
    rare = next(
        token for token in own[3] if sum(token in other for other in own) == 1 or token == max(own[3])
    )
    hit = [number for number, tokens in enumerate(own) if rare in tokens]
    with torch.no_grad():
        model.model.embed_tokens.weight[rare] = torch.nan
    made = labelled(tiny.saved(tmp_path / "poisoned", model, words), text)
    aside = made.table("set_aside")
    assert set(aside["sequence"].to_pylist()) <= set(hit)
    assert 3 in aside["sequence"].to_pylist()
    assert "not finite" in aside["reason"][0].as_py()
    assert made.metrics["set_aside"] == len(aside)
    labels = KeptTokenLabels.of(made)
    assert labels.read(np.array([3, 4]))[0] is None or 4 in hit
    assert sum(map(len, labels.numbers)) == len(found) - len(aside)


def test_a_teacher_without_a_finite_word_is_an_error(tmp_path, words, text):
    model = tiny.llama(len(words), tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[5:] = torch.nan
    with pytest.raises(ValueError, match=r"no sequence has labels, beginning with 0: .* not finite"):
        labelled(tiny.saved(tmp_path / "broken", model, words), text)


def plan(config):
    made = TokenLabelConfig.model_validate(config)
    facts = LabelTokens.describe(made, {})
    return facts, LabelTokens.shards(made, facts)


def test_the_plan_says_the_size(kept, tiny_llama, text):
    _, shards = plan(settings(tiny_llama, text))
    assert [shard.identity for shard in shards] == [shard.identity for shard in kept.shards]
    size = kept.shards[0].output.mapped["labels"].nbytes
    assert 0.4 * size < shards[0].disk_bytes < 2.5 * size
    full = plan(settings(tiny_llama, text, labels={"form": "full"}))[1][0]
    assert full.disk_bytes > 10 * shards[0].disk_bytes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": {"k": 400}}, "k is 400, but the vocabulary has 300"),
        ({"length": 400}, "at most 128 tokens"),
    ],
)
def test_what_cannot_be_is_refused_while_planning(tiny_llama, text, changed, message):
    with pytest.raises(ValueError, match=message):
        plan(settings(tiny_llama, text, **changed))


@pytest.mark.parametrize("changed", [{"teacher": None}, {"teacher_artifact": "a"}, {"tokenizer": "b"}])
def test_one_teacher_is_given(changed):
    with pytest.raises(ValidationError, match="give"):
        TokenLabelConfig.model_validate({**settings("a", "b.jsonl"), **changed})


def test_a_teacher_of_an_earlier_stage(kept, tiny_llama, text, tmp_path):
    model = LanguageModel.model_validate(str(tiny_llama))
    own = MemoryFiles(model_output(model.load("cpu"), model.tokenizer()), kind="language_model", id="a" * 32)
    config = {**settings(tiny_llama, text), "tokenizer": str(tiny_llama)}
    del config["teacher"]
    made = run_task(LabelTokens, config, {"teacher_artifact": own})
    assert made.facts["teacher_digest"] == own.id
    assert made.shards[0].output.mapped == kept.shards[0].output.mapped
    stranger = tiny.saved(tmp_path / "other", tiny.llama(280), tiny.tokenizer(280))
    with pytest.raises(ValueError, match=r"tokenizers: teacher_artifact .* and tokenizer .* differ"):
        run_task(LabelTokens, {**config, "tokenizer": str(stranger)}, {"teacher_artifact": own})


@tiny.needs("lm_stories260k")
def test_a_real_teacher(tmp_path):
    corpus = {"path": "shakespeare.txt.gz", "split": [0.0, 0.002]}
    config = {"teacher": "lm_stories260k", "corpus": corpus, "length": 128, "labels": {"k": 32}}
    made = run_task(LabelTokens, config)
    assert made.facts["vocabulary"] == 512
    assert made.metrics["kl_kept"] < 1e-4
    assert made.metrics["bytes_per_token"] < 92, "what DistillKit's recommended settings take at k=32"


def test_rows_are_what_a_reader_unpacks(kept):
    labels = KeptTokenLabels.of(kept)
    rows = [row for table in LabelTokens.rows(kept) for row in table.to_pylist()]
    assert [row["sequence"] for row in rows] == [number for own in labels.numbers for number in own]
    for number in (0, 13):
        row = next(row for row in rows if row["sequence"] == number)
        (told,) = labels.read(np.array([number]))
        assert row["tokens"] == told.row.tokens.tolist()
        assert row["learned"] == told.row.learned.tolist()
        assert row["ids"] == told.spoken.ids.tolist()
        np.testing.assert_array_equal(np.array(row["log_probs"]), told.spoken.log_probs.double().numpy())
        np.testing.assert_array_equal(np.array(row["tail"]), told.spoken.tail.double().numpy())
