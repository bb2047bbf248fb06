import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from orchestrator.experiment import parse_settings
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.examples import Dialogue, Plain, Turn
from tests.tasks.llm_distillation import tiny

PAIRS = [{"question": f"what is {n}?", "answer": f"it is {n}"} for n in range(10)]


def dialogue(prompt, response):
    return Dialogue((Turn("user", prompt), Turn("assistant", response)))


def jsonl(path, rows):
    text = "\n".join(json.dumps(row) for row in rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path, **settings):
    return parse_settings(Corpus, {"path": str(path), **settings}).examples()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_every_format_gives_the_same(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(PAIRS), path)
    else:
        jsonl(path, PAIRS)
    assert read(path) == tuple(dialogue(row["question"], row["answer"]) for row in PAIRS)


def test_chats_texts_and_prompts_alone(tmp_path):
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    answered = [*turns, {"role": "assistant", "content": "yes"}]
    (told,) = read(jsonl(tmp_path / "chat.jsonl", [{"messages": answered}]))
    assert [turn.role for turn in told.turns] == ["system", "user", "assistant"]
    assert (told.reference, told.opening.turns) == ("yes", told.turns[:2])
    assert read(jsonl(tmp_path / "text.jsonl", [{"text": "one"}, {"text": None}])) == (
        Plain("one"),
        Plain(""),
    )
    (asked,) = read(jsonl(tmp_path / "asked.jsonl", [{"prompt": "why?"}]))
    assert (asked.reference, asked.opening) == ("", asked)


def test_fields_by_name_and_inside_others(tmp_path):
    rows = [{"ask": "a", "instances": [{"output": "b"}], "prompt": "not this"}, {"ask": "c", "instances": []}]
    path = jsonl(tmp_path / "a.jsonl", rows)
    found = read(path, prompt="ask", response="instances.0.output")
    assert found == (dialogue("a", "b"), Dialogue((Turn("user", "c"),)))


def test_plain_text_by_separator_and_by_line(tmp_path):
    text = "".join(f"line {n}\n" for n in range(10))
    (tmp_path / "a.txt").write_text(text)
    (whole,) = read(tmp_path / "a.txt")
    (first,) = read(tmp_path / "a.txt", split=[0, 0.85])
    (second,) = read(tmp_path / "a.txt", split=[0.85, 1])
    assert first.text + second.text == whole.text == text
    assert second.text == "line 8\nline 9\n"
    assert [part.text for part in read(tmp_path / "a.txt", separator="\n", rows=2)] == ["line 0", "line 1"]


def test_parts_of_the_rows(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", PAIRS)
    whole = read(path)
    assert read(path, split=[0, 0.7]) + read(path, split=[0.7, 1]) == whole
    assert read(path, skip=2, rows=3) == whole[2:5]
    assert read(path, split=[0.5, 1], skip=1) == whole[6:]
    with pytest.raises(ValueError, match="no rows are left; correct `split`, `skip` or `rows`"):
        read(path, skip=10)


def test_the_digest_follows_the_content_and_what_is_read(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", PAIRS)
    corpus = Corpus.model_validate(str(path))
    zipped = Corpus(path=str(jsonl(tmp_path / "b.jsonl.gz", PAIRS)))
    assert corpus.content_digest() == zipped.content_digest()
    assert corpus.content_digest() != Corpus(path=str(path), rows=2).content_digest()
    assert (
        corpus.content_digest() != Corpus(path=str(jsonl(tmp_path / "c.jsonl", PAIRS[:9]))).content_digest()
    )
    assert (corpus.label, zipped.label) == ("a", "b")


def test_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    path = jsonl(tmp_path / "texts" / "a.jsonl", PAIRS)
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    assert read("texts/a.jsonl") == read(path)


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (PAIRS, {"prompt": "qestion"}, r"prompt 'qestion': the rows have no such field; did you mean 'question'\?"),
        (PAIRS, {"text": "q.x"}, "text 'q.x': the rows have no such field"),
        ([{"x": 1, "y": 2}], {}, "the fields are x, y; expected messages, a prompt and its response, or text"),
        ([{"prompt": 3, "response": "b"}], {}, "row 1: prompt: found int, expected text"),
        ([{"messages": "hi"}], {}, 'row 1: found hi, expected messages such as {"role"'),
        ([{"messages": [{"from": "me"}]}], {}, "row 1: found .*expected messages such as"),
        ([{"messages": [{"role": "user", "content": [1]}]}], {}, "row 1: found list, expected text"),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(tmp_path, rows, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(jsonl(tmp_path / "a.jsonl", rows), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": ', r"a\.jsonl, line 2: no JSON"),
        ("a.jsonl", b'[1]\n', r"a\.jsonl, line 1: found list, expected an object"),
        ("a.parquet", b"no parquet", r"a\.parquet: cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], r"a\.jsonl\.gz: cannot be read"),
        ("a.txt", b"\xff\xfe", r"a\.txt, line 1: cannot be read as UTF-8"),
        ("a.jsonl", b"", "no rows are left"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "a.csv"}, r"a\.csv: expected JSON lines"),
        ({"path": "a.parquet.gz"}, "expected JSON lines"),
        ({"path": "a.txt", "split": [0.5, 0.5]}, "expected two fractions that grow"),
        ({"path": "a.txt", "template": "ask"}, "does not say where the prompt stands"),
        ({"path": "a.txt", "rows": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        parse_settings(Corpus, settings)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"corpus a.txt: found neither .* nor {tmp_path}"):
        read("a.txt")


def test_a_folder_and_another_encoding_are_told(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(ValueError, match=r"a\.txt is a folder; expected a file of it"):
        read(tmp_path / "a.txt")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"b\.jsonl, line 2: cannot be read as UTF-8 \(byte 0xe9\)"):
        read(tmp_path / "b.jsonl")


@tiny.needs("gsm8k")
def test_gsm8k_needs_no_settings():
    found = read("gsm8k/test.jsonl.gz")
    assert len(found) == 1319
    assert found[0].reference.endswith("#### 18")
