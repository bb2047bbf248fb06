import dataclasses
import hashlib
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import CorruptBlob, SchemaError
from orchestrator.keys import canonical
from orchestrator.store import (
    SCHEMA,
    FailureRecord,
    FileRef,
    InputRef,
    Manifest,
    RunRecord,
    ShardRecord,
    StageRecord,
)
from orchestrator.store.records import decode, encode

words = st.text(max_size=5)
numbers = st.floats(allow_nan=False, allow_infinity=False)
facts = st.dictionaries(
    words, st.none() | st.integers() | numbers | words | st.lists(words, max_size=2), max_size=3
)
refs = st.builds(
    FileRef, st.sampled_from("abc").map(lambda c: c * 64), st.integers(0, 2**50), st.none() | st.integers(0)
)
files = st.dictionaries(words, refs, max_size=3)
shards = st.builds(
    ShardRecord, key=words, identity=facts, files=files, facts=facts,
    metrics=st.dictionaries(words, numbers, max_size=2), label=words, history=st.none() | refs, provenance=facts,
)  # fmt: skip
manifests = st.builds(
    Manifest, id=words, kind=words, task=words, version=st.integers(), config=facts, seed=st.integers(),
    inputs=st.dictionaries(words, st.builds(InputRef, words, words), max_size=2), facts=facts,
    metrics=st.dictionaries(words, numbers, max_size=2), files=files,
    shards=st.lists(shards.map(lambda record: record.entry), max_size=3), provenance=facts,
)  # fmt: skip
stages = st.builds(
    StageRecord, stage=words, task=words, artifact=st.none() | words, state=words, seconds=numbers
)
runs = st.builds(
    RunRecord, run_id=words, experiment=words, document=facts, overrides=st.lists(words, max_size=2), state=words,
    started=st.integers(), ended=st.none() | st.integers(), stages=st.lists(stages, max_size=2), driver=facts,
)  # fmt: skip
failures = st.builds(FailureRecord, stage=words, shard=words, failure=facts, created=st.integers())


@given(st.one_of(shards, manifests, runs, failures))
def test_round_trip(record):
    data = encode(record)
    again = decode(type(record), data, "here")
    assert again == record
    assert encode(again) == data
    assert json.loads(data)["schema"] == 1


@given(manifests, st.data())
def test_a_changed_byte_is_found_or_means_the_same(record, data):
    """As in `\\ud800`, where JSON does not mind the case of a digit."""
    kept = bytearray(encode(record))
    at = data.draw(st.integers(0, len(kept) - 1))
    kept[at] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(CorruptBlob, SchemaError):
        assert decode(Manifest, bytes(kept), "here") == record


@given(manifests, st.data())
def test_half_a_record_is_found(record, data):
    kept = encode(record)
    with pytest.raises(CorruptBlob, match=r"here: damaged record .*verify --repair"):
        decode(Manifest, kept[: data.draw(st.integers(0, len(kept) - 1))], "here")


def sealed(body) -> bytes:
    return canonical({**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()})


def test_a_later_schema_is_refused_even_if_it_seals_in_another_way():
    with pytest.raises(SchemaError) as error:
        decode(ShardRecord, b'{"schema": 7, "seal": "new"}', "shard x")
    assert str(error.value) == (
        f"shard x: written by a later version (schema 7, this one reads up to {SCHEMA}); upgrade limbeck, or name "
        "another store by --store"
    )


def test_fields_added_within_a_schema_are_read_over():
    body = {
        "created": 1,
        "error": "e",
        "failure": {},
        "new": [1],
        "schema": SCHEMA,
        "shard": "s",
        "stage": "t",
    }
    assert decode(FailureRecord, sealed(body), "here").shard == "s"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{}", b'{"schema": "x"}', b"\xff", sealed({"schema": SCHEMA})]
)
def test_what_is_no_record_is_damaged(data):
    with pytest.raises(CorruptBlob, match="here: damaged record"):
        decode(RunRecord, data, "here")


@given(manifests, facts)
def test_the_digest_is_of_the_content_alone(manifest, other):
    changed = dataclasses.replace(
        manifest, provenance=other, facts=other, config=other, seed=manifest.seed + 1, id="other", metrics={},
        previews=[{"name": "p", "step": 0, "blob": "b" * 64, "size": 1}],
    )  # fmt: skip
    assert changed.digest == manifest.digest
    assert len(manifest.digest) == 64
    more = dataclasses.replace(manifest, files={**manifest.files, "new.json": FileRef("d" * 64, 1)})
    assert more.digest != manifest.digest


def test_the_digest_knows_the_order_of_shards():
    base = {
        "id": "i", "kind": "k", "task": "t", "version": 1, "config": {}, "seed": 0, "inputs": {}, "facts": {},
        "metrics": {}, "files": {},
    }  # fmt: skip
    first, second = (
        ShardRecord(
            key=c, identity={"i": c}, label=c, files={"x.json": FileRef(c * 64, 5)}, facts={}, metrics={}
        ).entry
        for c in "ab"
    )
    there, back = Manifest(**base, shards=[first, second]), Manifest(**base, shards=[second, first])
    assert there.digest != back.digest
    assert there.bytes == back.bytes == 10
    assert Manifest(**base, shards=[first, first]).bytes == 5
    assert there.to_json()["digest"] == there.digest
    assert json.loads(encode(there))["digest"] == there.digest
