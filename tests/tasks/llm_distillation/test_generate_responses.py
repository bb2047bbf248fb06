import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from orchestrator.experiment import parse_settings
from orchestrator.task import Output
from tasks.llm_distillation.generate_responses import GenerateResponses
from tasks.llm_distillation.models.model_artifact import KIND, model_output
from tasks.llm_distillation.text.chat import openings
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.examples import Dialogue, Turn
from tasks.llm_distillation.text.sequences import packed
from tasks.llm_distillation.writing.responses import read_responses
from tests.tasks.harness import KilledError, MemoryFiles, run_task
from tests.tasks.llm_distillation import tiny


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Five prompts, one too long; not one response."""
    path = tmp_path_factory.mktemp("asked") / "asked.jsonl"
    prompts = [f"say {n}" for n in range(4)] + ["say " * 60]
    path.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    return path


def config(path, model, /, **changes):
    settings = {
        "model": str(model), "corpus": str(path), "length": 32, "batch": 2, "unended": True,
        "sampling": {"new_tokens": 6, "temperature": 2.0},
    }  # fmt: skip
    kept = {name: value for name, value in (settings | changes).items() if value is not None}
    return parse_settings(GenerateResponses.Config, kept)


@pytest.fixture(scope="module")
def responses(asked, tiny_llama):
    return run_task(GenerateResponses, config(asked, tiny_llama, samples=2))


def test_every_prompt_that_fits_is_answered(responses):
    table = responses.table("responses").to_pylist()
    assert [(row["sample"], row["row"]) for row in table] == [(s, n) for s in range(2) for n in range(4)]
    assert [row["prompt"] for row in table[:4]] == [f"say {n}" for n in range(4)]
    assert all(row["response"] for row in table)
    assert table[0]["response"] != table[4]["response"]
    counts = responses.facts["counts"]
    assert (counts["too_long"], counts["written"], counts["kept"]) == (2, 8, 8)
    assert responses.metrics["ended"] == counts["ended"] / 8


def test_killed_and_resumed_is_undisturbed(responses, asked, tiny_llama):
    settings, progress = config(asked, tiny_llama, samples=2), {}
    with pytest.raises(KilledError):
        run_task(GenerateResponses, settings, progress=progress, kill_after=1)
    again = run_task(GenerateResponses, settings, progress=progress)
    assert again.table("responses").equals(responses.table("responses"))


def test_answers_are_learned_from_like_any_corpus(responses, tmp_path, words):
    """As an artifact, and as a file once exported."""
    examples = read_responses(responses)
    pq.write_table(responses.table("responses"), tmp_path / "responses.parquet")
    exported = Corpus(path=str(tmp_path / "responses.parquet"))
    assert exported.examples() == examples
    made = packed(examples, exported, words, 64)
    assert made.counts["documents"] == 8
    first = words.decode(made.ids[made.document == 0])
    assert first == f"<s>say 0\n{examples[0].reference}</s>"


def test_a_model_of_an_earlier_stage(responses, asked, tiny_llama, words):
    output = model_output(tiny.llama(len(words) + 8), words)
    model = MemoryFiles(output, kind=KIND, described=output.facts)
    settings = config(asked, tiny_llama, model=None, model_artifact="model_artifact", samples=2)
    found = run_task(GenerateResponses, settings, {"model_artifact": model})
    assert found.table("responses").equals(responses.table("responses"))


def test_a_chat_keeps_its_messages(tmp_path, chatty):
    turns = [("system", "be brief"), ("user", "hi"), ("assistant", "yes")]
    messages = [{"role": role, "content": content} for role, content in turns]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}))
    folder = tiny.saved(tmp_path / "model", tiny.llama(len(chatty)), chatty)
    found = run_task(GenerateResponses, config(tmp_path / "chat.jsonl", folder))
    (told,) = read_responses(found)
    assert told.opening == Dialogue((Turn("system", "be brief"), Turn("user", "hi")))
    assert told.reference == found.table("responses").to_pylist()[0]["messages"][2]["content"] != "yes"
    assert len(openings([told.opening], chatty, Corpus(path="a.jsonl"))) == 1


@pytest.mark.parametrize(("unended", "kept"), [(False, ["done"]), (True, ["done", "cut o"])])
def test_what_did_not_end_and_what_is_empty_is_left_out(asked, unended, kept):
    found = closed(asked, [("done", True), ("cut o", False), (" ", True)], unended=unended)
    assert found.tables["responses"]["response"].to_pylist() == kept
    assert found.facts["counts"] == {"too_long": 0, "written": 3, "ended": 2, "kept": len(kept)}


def test_no_answer_left_is_one_clear_line(asked):
    with pytest.raises(
        ValueError, match=r"none of 1 answers ended within 6 tokens; raise `sampling.new_tokens`"
    ):
        closed(asked, [("cut o", False)], unended=False)


def closed(asked, answers, **changes):
    """What the closing step makes of these (text, ended)."""
    rows = [{"row": row, "text": text, "ended": ended} for row, (text, ended) in enumerate(answers)]
    output = Output(tables={"written": pa.Table.from_pylist(rows)}, facts={"too_long": 0})
    shards = [MemoryFiles(output, {"sample": 0})]
    settings = config(asked, "model", **changes)
    return GenerateResponses.close(settings, {}, {"corpus": settings.corpus.content_digest()}, shards, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "give either `model` or `model_artifact`"),
        ({"model_artifact": "a"}, "give either `model` or `model_artifact`"),
        ({"samples": 2, "sampling": {"temperature": 0.0}}, "set `samples: 1`"),
    ],
)
def test_wrong_settings_are_refused(asked, changes, message):
    with pytest.raises(ValidationError, match=message):
        config(asked, "model", **changes)


def test_what_cannot_be_is_known_while_planning(asked, tiny_llama, tmp_path):
    (tmp_path / "text.txt").write_text("no prompt")
    for settings, message in (
        (config(tmp_path / "text.txt", tiny_llama), "has no prompts to answer"),
        (config(asked, tiny_llama, length=123), "length 129: model .* takes at most 128 tokens"),
        (config(asked, tmp_path / "nowhere"), "found neither"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            GenerateResponses.describe(settings, {})
        assert "\n" not in str(caught.value)


def test_a_corpus_that_changed_is_refused(asked, tiny_llama, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text(asked.read_text())
    corpus = Corpus(path=str(path))
    digest = corpus.content_digest()
    assert len(corpus.unchanged(digest)) == 5
    path.write_text('{"prompt": "another one"}')
    with pytest.raises(ValueError, match="its content changed since it was planned"):
        corpus.unchanged(digest)
