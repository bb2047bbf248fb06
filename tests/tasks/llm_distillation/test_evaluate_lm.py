import itertools
import json
import math

import pytest
import torch
from pydantic import ValidationError

from orchestrator.experiment import parse_settings
from orchestrator.stagekeys import shard_key
from tasks.llm_distillation.evaluate_lm import EvaluateLm
from tasks.llm_distillation.models.model_artifact import KIND, load_artifact, model_output
from tasks.llm_distillation.models.student_model import Student, initial_student
from tasks.llm_distillation.text.chat import openings, samples
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.examples import Dialogue, Turn
from tasks.llm_distillation.writing.generation import write
from tests.tasks.harness import KilledError, MemoryFiles, equal, run_task
from tests.tasks.llm_distillation import tiny

SAMPLING = {"new_tokens": 8}


def artifact(model, tokenizer):
    output = model_output(model, tokenizer)
    return MemoryFiles(output, kind=KIND, described=output.facts)


def config(corpus, teacher, /, **changes):
    settings = {
        "student": "student", "corpus": str(corpus), "teacher": str(teacher), "length": 64, "batch": 2,
        "prompts": 3, "sampling": SAMPLING, "sampling_seeds": 2,
    }  # fmt: skip
    kept = {name: value for name, value in (settings | changes).items() if value is not None}
    return parse_settings(EvaluateLm.Config, kept)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Five questions with numbers for answers."""
    path = tmp_path_factory.mktemp("corpus") / "sums.jsonl"
    rows = [{"question": f"{n} + {n}?", "answer": f"{n} plus {n} is\n#### {2 * n}"} for n in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def student(tiny_llama, words):
    """The teacher with its weights shaken."""
    model = tiny.llama(len(words) + 8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
    return artifact(model, words)


@pytest.fixture(scope="module")
def scores(corpus, tiny_llama, student):
    settings = config(corpus, tiny_llama, before={"layers": 1}, exact_match="marked", sft="sft")
    return run_task(EvaluateLm, settings, {"student": student, "sft": student})


def test_every_model_is_a_row(scores):
    table = scores.table("summary").to_pylist()
    assert [row["model"] for row in table] == ["teacher", "before", "student", "sft"]
    assert {"perplexity", "agreement_%", "kl_nats", "rouge_l_%", "rouge_l_se_%", "exact_match_%"} <= table[
        0
    ].keys()
    assert table[0]["agreement_%"] is None
    assert all(row["agreement_%"] is not None for row in table[1:])
    assert table[2] == {**table[3], "model": "student"}
    assert [name for name, _, _ in scores.previews] == ["perplexity"]
    assert min(scores.metrics[f"{role}_kl"] for role in ("before", "student", "sft")) > 0
    assert scores.facts["counts"]["rows"] == 5


def test_perplexity_is_that_of_the_responses(scores, corpus, student, words):
    model, _ = load_artifact(student, "cpu")
    nll = []
    for sample in samples(Corpus(path=str(corpus)).examples(), words, Corpus(path=str(corpus))):
        ids = torch.from_numpy(sample.ids).long()
        with torch.no_grad():
            log_q = model(ids[None]).logits[0, :-1, : len(words)].log_softmax(-1)
        nll += (-log_q.gather(-1, ids[1:, None])[:, 0])[torch.from_numpy(sample.learned[1:])].tolist()
    assert scores.metrics["student_perplexity"] == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-5)


def test_the_student_before_training_is_the_one_that_distillation_starts_from(
    scores, corpus, tiny_llama, words
):
    teacher = tiny.llama(len(words) + 8)
    before = initial_student(Student(layers=1), teacher.config, lambda: teacher, 0)
    again = run_task(EvaluateLm, config(corpus, tiny_llama, prompts=0), {"student": artifact(before, words)})
    for name in ("perplexity", "kl", "agreement"):
        assert again.metrics[f"student_{name}"] == pytest.approx(scores.metrics[f"before_{name}"])


def test_answers_are_what_the_model_writes(scores, corpus, student, words):
    table = [row for row in scores.table("responses").to_pylist() if row["model"] == "student"]
    assert [(row["sample"], row["row"]) for row in table] == [(s, n) for s in range(2) for n in range(3)]
    model, _ = load_artifact(student, "cpu")
    settings = config(corpus, "unused")
    prompts = openings([Dialogue((Turn("user", "1 + 1?"),))], words, settings.corpus)
    from orchestrator.task import derive_seed

    seed = derive_seed(0, "EvaluateLm", {"sample": 0, "row": 1}, "sample")
    ids = write(model, prompts, [seed], settings.sampling, vocabulary=len(words), end=words.eos_token_id)
    assert table[1]["text"] == words.decode(ids[0], skip_special_tokens=True)


def test_samples_stand_side_by_side(scores):
    shown = scores.document("samples")
    assert len(shown) == 3
    assert shown[1].keys() == {"row", "prompt", "reference", "teacher", "before", "student", "sft"}
    assert (shown[1]["prompt"], shown[1]["reference"]) == ("1 + 1?", "1 plus 1 is\n#### 2")
    assert shown[1]["student"] == shown[1]["sft"]
    assert scores.table("samples").num_rows == 3


def test_a_model_that_knows_the_answers_scores_fully(tmp_path, words):
    """A table of what follows what, written into the weights: exact match and ROUGE-L are those of the reference."""
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"prompt": "Q", "response": "by 7"}))
    example = Corpus(path=str(path))
    (sample,) = samples(example.examples(), words, example)
    model = tiny.llama(len(words), num_hidden_layers=1, tie_word_embeddings=False, hidden_size=64)
    ids = sample.ids.tolist()
    assert len(set(ids)) == len(ids) < 64
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1)
        for place, (token, following) in enumerate(itertools.pairwise(ids)):
            model.model.embed_tokens.weight[token, place] = 1
            model.lm_head.weight[following, place] = 10
    found = run_task(
        EvaluateLm,
        config(path, "none", teacher=None, exact_match="last_number"),
        {"student": artifact(model, words)},
    )
    assert found.metrics["student_exact_match"] == found.metrics["student_rouge_l"] == 1
    assert found.metrics["student_exact_match_se"] == 0
    assert found.metrics["student_perplexity"] == pytest.approx(1, abs=1e-3)
    assert "student_agreement" not in found.metrics


@pytest.mark.parametrize("kill_after", [1, 2])
def test_killed_and_resumed_is_undisturbed(scores, corpus, tiny_llama, student, kill_after):
    settings, progress = config(corpus, tiny_llama, batch=1, sampling_seeds=1), {}
    with pytest.raises(KilledError):
        run_task(EvaluateLm, settings, {"student": student}, progress=progress, kill_after=kill_after)
    resumed = run_task(EvaluateLm, settings, {"student": student}, progress=progress)
    undisturbed = run_task(EvaluateLm, settings, {"student": student})
    assert equal(resumed, undisturbed)
    assert resumed.table("responses").equals(undisturbed.table("responses"))
    assert resumed.metrics["student_perplexity"] == pytest.approx(
        scores.metrics["student_perplexity"], rel=1e-5
    )


def test_a_trained_teacher_may_be_an_artifact(scores, corpus, tiny_llama, student, words):
    teacher = artifact(tiny.llama(len(words) + 8), words)
    settings = config(
        corpus, tiny_llama, teacher=None, teacher_artifact="teacher_artifact", before={"layers": 1}
    )
    found = run_task(EvaluateLm, settings, {"student": student, "teacher_artifact": teacher})
    for name in ("teacher_perplexity", "before_kl", "student_agreement", "student_rouge_l"):
        assert found.metrics[name] == scores.metrics[name]


def keys(settings, student, inputs):
    facts = EvaluateLm.describe(settings, dict.fromkeys(inputs, student.facts))
    shards = EvaluateLm.shards(settings, facts)
    return {shard.label: shard_key("evaluate_lm", 1, 0, settings, inputs, shard) for shard in shards}


def test_more_seeds_prompts_and_controls_reuse_what_is_there(corpus, tiny_llama, student):
    first = keys(config(corpus, tiny_llama), student, {"student": "a"})
    more = keys(config(corpus, tiny_llama, sampling_seeds=3), student, {"student": "a"})
    assert first.items() < more.items()
    controlled = keys(config(corpus, tiny_llama, sft="sft"), student, {"student": "a", "sft": "b"})
    assert first.items() < controlled.items()
    other = keys(config(corpus, tiny_llama), student, {"student": "c"})
    assert {name for name in first if first[name] == other[name]} == {
        name for name in first if name.startswith("model=teacher")
    }
    cooler = keys(
        config(corpus, tiny_llama, sampling={"new_tokens": 8, "temperature": 0.5}), student, {"student": "a"}
    )
    assert {name for name in first if first[name] == cooler[name]} == {
        name for name in first if "sample=" not in name
    }
    closing = keys(config(corpus, tiny_llama, exact_match="marked", shown=1), student, {"student": "a"})
    assert closing == first


def test_plain_text_is_judged_by_likelihood_alone(tmp_path, tiny_llama, student):
    (tmp_path / "text.txt").write_text(tiny.TEXT)
    found = run_task(EvaluateLm, config(tmp_path / "text.txt", tiny_llama), {"student": student})
    assert found.metrics.keys() == {
        "teacher_perplexity",
        "student_perplexity",
        "student_agreement",
        "student_kl",
    }
    assert found.document("samples") == []


def test_prompts_that_are_too_long_are_left_out(tmp_path, tiny_llama, student):
    path = tmp_path / "long.jsonl"
    rows = [{"prompt": "why " * n, "response": "so"} for n in (1, 60, 2)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = run_task(EvaluateLm, config(path, tiny_llama), {"student": student})
    assert [row["row"] for row in found.document("samples")] == [0, 2]
    assert found.facts["counts"]["dropped"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_artifact": "a"}, "give either `teacher` or `teacher_artifact`"),
        ({"teacher": None, "before": {"layers": 1}}, "before: its `layers` are a teacher's"),
        ({"sampling": {"temperature": 0.0}}, "set `sampling_seeds: 1`"),
        ({"exact_match": "any"}, "'marked' or 'last_number'"),
    ],
)
def test_wrong_settings_are_refused(changes, message, corpus):
    with pytest.raises(ValidationError, match=message):
        config(corpus, "teacher", **changes)


def test_what_cannot_be_is_known_while_planning(corpus, tiny_llama, student, tmp_path, words):
    def planned(facts=student.facts, teacher=tiny_llama, **changes):
        return EvaluateLm.describe(config(corpus, teacher, **changes), {"student": facts})

    other = tiny.tokenizer(290)
    different = tiny.saved(tmp_path / "different", tiny.llama(290), other)
    small = tiny.saved(tmp_path / "small", tiny.llama(len(words) - 1), words)
    short = {**student.facts, "positions": 32}
    for arguments, message in (
        ({"teacher": different}, r"tokenizers: student \(300 tokens, \w+\) and teacher \(290 tokens, \w+\) differ"),
        ({"teacher": small}, r"has 299 logits for the 300 tokens of its tokenizer"),
        ({"facts": short}, "length 64: model `student` takes at most 32 tokens"),
        ({"length": 124}, "length 124 and 8 new tokens: model `teacher` takes at most 128 tokens"),
        ({"before": {"layers": 9}}, "layers 9: the teacher has 2"),
        ({"corpus": str(tmp_path / "none.jsonl")}, "found neither"),
        ({"teacher": tmp_path / "nowhere"}, "found neither"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as caught:
            planned(**arguments)
        assert "\n" not in str(caught.value)
    assert planned(prompts=0, length=128)["models"] == ["teacher", "student"]


def test_nothing_to_judge_is_one_clear_line(tmp_path, tiny_llama, student):
    (tmp_path / "asked.jsonl").write_text('{"prompt": "why?"}')
    with pytest.raises(
        ValueError, match="no row has a token to judge within 64; name the field of the `response`"
    ):
        run_task(EvaluateLm, config(tmp_path / "asked.jsonl", tiny_llama), {"student": student})


@tiny.needs("lm_stories260k")
def test_a_real_teacher_is_better_than_its_cut_student(tmp_path):
    from tasks.llm_distillation.models.language_model import LanguageModel

    teacher = LanguageModel(name="lm_stories260k")
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.\n"
    (tmp_path / "story.txt").write_text(story)
    student = initial_student(Student(layers=4), teacher.config(), lambda: teacher.load("cpu"), 0)
    found = run_task(
        EvaluateLm,
        config(tmp_path / "story.txt", "lm_stories260k"),
        {"student": artifact(student, teacher.tokenizer())},
    )
    assert found.metrics["teacher_perplexity"] < 4
    assert found.metrics["student_perplexity"] > 1.2 * found.metrics["teacher_perplexity"]
    assert 0.2 < found.metrics["student_agreement"] < 0.95
