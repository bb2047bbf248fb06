"""What a student writes, how the teacher corrects it, and what is kept of it."""

import pytest
import torch

from orchestrator.task import Progress
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.vocabulary import tokenizer_facts
from tasks.llm_distillation.text.sequences import sequences
from tasks.llm_distillation.training.written_texts import Writing
from tasks.llm_distillation.training.zero import join_alone
from tests.tasks.harness import MemoryContext
from tests.tasks.llm_distillation import tiny

BATCH, NEW = 12, 8


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    named = LanguageModel(name=tiny.word_folder(place / "teacher", layers=3))
    return {
        "named": named,
        "teacher": named.load("cpu"),
        "student": tiny.word_llama(seed=4),
        "corpus": tiny.word_texts(place / "corpus.jsonl"),
    }


def writing(models, saved=None, teacher="teacher", **on_policy):
    config = DistillConfig(
        teacher=models["named"],
        student={"layers": 1},
        corpus=models["corpus"],
        objective="forward_kl",
        length=16,
        batch=BATCH,
        steps=10,
        on_policy={"prompt_tokens": 3, "sampling": {"new_tokens": NEW}, **on_policy},
    )
    tokenizer = models["named"].tokenizer()
    context = MemoryContext([0, "writing", {}], {})
    found = sequences(config.corpus, tokenizer, 16)
    return Writing(config, found, models[teacher], tokenizer_facts(tokenizer), context, saved)


def test_texts_go_on_from_prompts_and_depend_on_the_step_alone(models):
    one, other = (writing(models).write(3, models["student"]) for _ in range(2))
    assert one == other != writing(models).write(4, models["student"])
    assert len(one) == BATCH
    for prompt, ids in one:
        assert prompt == 3
        assert prompt < len(ids) <= prompt + NEW
        assert 2 not in ids[prompt:-1]  # nothing follows the end token


def test_what_is_written_is_learned(models):
    own = writing(models)
    texts = own.write(0, models["student"])
    found = own.sequences(texts)
    assert found.loss_mask.sum(1).tolist() == [len(text.ids) - text.prompt for text in texts]


def test_a_corrected_text_has_the_teachers_token_where_it_first_differs(models):
    plain = writing(models).write(0, models["student"])
    corrected = writing(models, corrections=1).write(0, models["student"])
    changed = 0
    for (prompt, before), (same, after) in zip(plain, corrected, strict=True):
        assert prompt == same
        place = next((at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
        if place is None:
            continue
        changed += 1
        with torch.no_grad():
            logits = models["teacher"](torch.tensor([after[:place]])).logits[0, -1, :24]
        assert after[place] == int(logits.argmax())
        assert prompt <= place < prompt + NEW
    assert changed > BATCH // 2


def test_a_text_that_the_teacher_would_write_stays(models):
    greedy = {"new_tokens": NEW, "temperature": 0}
    plain, corrected = (
        writing(models, teacher="student", sampling=greedy, corrections=turns).write(0, models["student"])
        for turns in (0, 1)
    )
    assert plain == corrected


def test_texts_are_kept_replayed_and_go_on_after_a_restart(models):
    join_alone("cpu")
    buffer = {"capacity": 20, "growth": 0.5}
    own = writing(models, share=0.25, buffer=buffer)
    texts = [text for step in range(2) for text in own.write(step, models["student"])]
    own.judged(1.0)
    own.judged(1.0)
    tensors, facts = own.progress()
    again = writing(models, Progress(tensors, facts), share=0.25, buffer=buffer)
    assert again.replay(5) == own.replay(5)
    assert all(text in texts[-20:] for text in own.replay(5))
    assert facts["share"] == 0.75
    assert [again.origin(step, 10) for step in range(10)] == [own.origin(step, 10) for step in range(10)]
    assert "replayed" in [own.origin(step, 10) for step in range(10)]


def test_a_corpus_without_room_for_prompts_is_refused(models):
    with pytest.raises(ValueError, match="longer than prompt_tokens"):
        writing(models, prompt_tokens=16)
