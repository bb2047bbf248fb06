"""Object stores, against a real S3 server: lost answers, outages, uploads in parts, listings, the cache."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from orchestrator.errors import CorruptBlob, StoreError, UserError
from orchestrator.store import Store, collect, export, lineage, open_bytes, verify
from orchestrator.store.blobs import blob_path, keep_file
from orchestrator.store.objects import Objects
from orchestrator.store.services import Service
from orchestrator.task import Output

MIB = 2**20
LARGE = b"0123456789abcdef" * (12 * MIB // 16)


def space_at(bucket, patience_s=60.0) -> Objects:
    """Parts as small as S3 lets them be, and short tries."""
    return Objects(Service.of(bucket), patience_s=patience_s, try_s=0.2, chunk_bytes=5 * MIB)


def after(seconds, act) -> None:
    threading.Timer(seconds, act).start()


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# Commits


def test_a_lost_answer_loses_no_commit(wire, bucket):
    space = space_at(bucket)
    wire.lose(b"PUT")
    assert space.put_if_absent("a/x", b"mine")
    assert sum(line.startswith(b"PUT") for line in wire.asked) == 2, "the request was not sent again"
    wire.lose(b"PUT")
    assert not space.put_if_absent("a/x", b"mine")
    assert not space_at(bucket).put_if_absent("a/x", b"mine")


def test_a_server_that_ignores_conditions_is_refused(wire, bucket):
    wire.strips = b"if-none-match"
    with pytest.raises(UserError, match=r"ignores conditional puts.*--store") as error:
        Store.open(bucket)
    one_line(error)
    wire.strips = b""
    Store.open(bucket)
    assert [entry.path for entry in open_bytes(bucket).list()] == ["store.json"]


def test_an_outage_in_the_middle_of_a_commit_costs_nothing(wire, bucket, filler):
    store = Store.open(bucket)
    fill = filler(store)
    for number, (begin, end) in enumerate([(wire.down, wire.up), (wire.turn_away, wire.let_in)]):
        begin()
        after(0.7, end)
        key = fill.shard(number)
        assert store.shard(key).document("value")["name"] == number
    assert verify(store).ok


def test_a_server_that_hangs_for_a_while_is_waited_for(server, wire, bucket):
    space = space_at(bucket)
    space.put("a/x", b"x")
    server.pause()
    after(1.0, server.go_on)
    assert space.read("a/x") == b"x"


@pytest.mark.parametrize(
    ("outage", "why"), [("down", "connection refused"), ("turn_away", "503 Service Unavailable")]
)
def test_a_server_that_stays_away_is_told_in_one_line(wire, bucket, caplog, outage, why):
    space = space_at(bucket, patience_s=0.4)
    getattr(wire, outage)()
    began = time.monotonic()
    acts = (
        lambda: space.read("a/x"),
        lambda: space.put_if_absent("a/x", b""),
        lambda: space.put("a/y", LARGE),
    )
    for act in acts:
        with pytest.raises(
            StoreError, match=rf"store {bucket} at {wire.url}: cannot .*: {why}; check"
        ) as error:
            act()
        one_line(error)
    assert time.monotonic() - began < 30
    assert f"{why}; trying on for" in caplog.text


@pytest.mark.parametrize("act", [lambda uri: Store.open(uri), lambda uri: Store.open(uri, create=False)])
def test_a_missing_bucket_is_the_users_mistake(wire, act):
    began = time.monotonic()
    with pytest.raises(UserError, match=r"store s3://no-such-bucket/p at .*no such bucket; make it") as error:
        act("s3://no-such-bucket/p")
    one_line(error)
    assert time.monotonic() - began < 30
    with pytest.raises(UserError, match="no such bucket"):
        list(open_bytes("s3://no-such-bucket/p").list())


def test_refused_credentials_are_the_users_mistake(server, wire, bucket):
    space = space_at(bucket)
    acts = (
        space.check_writable,
        lambda: space.read("x"),
        lambda: space.exists("x"),
        lambda: list(space.list()),
    )
    with server.demanding_signatures():
        began = time.monotonic()
        for act in acts:
            with pytest.raises(UserError, match=r"403 Forbidden.*check the credentials") as error:
                act()
            assert "not-a-secret" not in one_line(error)
        assert time.monotonic() - began < 30
    space.check_writable()


def test_missing_credentials_are_the_users_mistake(wire, bucket, monkeypatch):
    wire.down()  # it stands for the machine's role service too
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", wire.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=r"no credentials were found; set .*AWS_ACCESS_KEY_ID") as error:
        space_at(bucket).check_writable()
    one_line(error)


def test_an_unencrypted_endpoint_elsewhere_is_refused(wire, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:secret@s3.example.org:9000")
    with pytest.raises(UserError, match=r"http://s3.example.org is not encrypted.*AWS_ALLOW_HTTP") as error:
        open_bytes(bucket)
    assert "secret" not in str(error.value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert open_bytes(bucket).uri == bucket


def test_uris(wire, monkeypatch):
    assert open_bytes("s3://bucket").uri == "s3://bucket"
    assert open_bytes("s3://bucket/a/b/").uri == open_bytes("s3://bucket/a/b").uri == "s3://bucket/a/b"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "someone")
    assert open_bytes("az://container/p").uri == "az://container/p"
    assert open_bytes("gs://bucket/p").uri == "gs://bucket/p"
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(
        UserError, match=r"az://container/p: .*Account must be specified; check the az variables"
    ):
        open_bytes("az://container/p")


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///p", "s3://key:secret@bucket/p", "s3://bucket?secret=1", "s3://bucket/../secret/p"]
)
def test_uris_that_are_none(wire, uri):
    with pytest.raises(UserError, match="expected") as error:
        open_bytes(uri)
    assert "secret@" not in one_line(error)


# Large files


def test_a_large_file_goes_up_in_parts_and_appears_whole(server, wire, bucket):
    space = space_at(bucket)
    space.put("a/x", LARGE)
    assert sum(b"partNumber=" in line for line in wire.asked) == 3
    assert space.read("a/x") == LARGE
    with space.scratch() as file:
        file.write_bytes(LARGE)
        ref = keep_file(space, file)
    assert space.digest(blob_path(ref.digest)) == ref.digest == hashlib.sha256(LARGE).hexdigest()
    with space.scratch() as file:
        file.write_bytes(LARGE)
        assert not space.put_file_if_absent(blob_path(ref.digest), file)
        with pytest.raises(AssertionError, match="only blobs may be larger"):
            space.put_file_if_absent("a/other", file)
    assert server.unfinished_uploads("bucket") == 0


def test_an_upload_goes_on_after_an_outage(wire, bucket):
    space = space_at(bucket)
    wire.cut(7 * MIB)
    after(1.0, wire.mend)
    space.put("a/x", LARGE)
    assert space.read("a/x") == LARGE


def test_a_killed_upload_leaves_nothing_that_shows(wire, bucket, child):
    wire.stall(9 * MIB)
    process = child("upload", bucket, "a/x", 20 * MIB)
    assert wire.stalled.wait(60)
    process.kill()
    process.wait(30)
    wire.mend()
    space = space_at(bucket)
    assert space.stat("a/x") is None
    assert list(space.list()) == []
    assert space.put_if_absent("a/x", b"another")


# Listings


def fill_with(space, names) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: space.put(name, b""), names))


@pytest.mark.slow
def test_listings_are_paged_and_go_on_after_an_outage(wire, bucket):
    names = {f"many/{number % 7}/{number}" for number in range(1100)}
    fill_with(space_at(bucket), names)
    wire.asked.clear()
    space = space_at(bucket)
    found = [entry.path for entry in space.list("many")]
    assert len(found) == 1100
    assert set(found) == names
    assert sum(b"list-type=2" in line for line in wire.asked) == 2

    listing = space.list("many")
    found = [next(listing).path]
    wire.turn_away()
    after(1.0, wire.let_in)  # longer than one try of the library's, so that ours has to go on
    found += [entry.path for entry in listing]
    assert len(found) == 1100
    assert set(found) == names


def test_names_that_are_not_ours_are_not_listed(server, wire, bucket):
    prefix = bucket.removeprefix("s3:/")
    for name in (".tmp/x", "a/.hidden", "a/ok", "sp%20ace"):
        server.request("PUT", f"{prefix}/{name}", b"")
    assert [entry.path for entry in open_bytes(bucket).list()] == ["a/ok"]


def test_many_names_are_asked_for_by_few_requests(wire, bucket, filler):
    store = Store.open(bucket)
    keys = [filler.key(number) for number in range(400)]
    done = set(keys[::4])
    fill_with(store.bytes, [f"shards/{key[:2]}/{key}.json" for key in done])
    wire.asked.clear()
    assert store.committed(keys) == done
    assert len(wire.asked) == 1
    assert store.committed(keys[:5]) == done & set(keys[:5])


class InMemory(Service):
    """obstore's own store in memory, where a test asks for very many objects."""

    def connect(self, retry_s):
        self.__dict__.setdefault("made", MemoryStore())
        return self.made


folders = st.sampled_from(["a", "a/b", "a/c", "d"])


@settings(max_examples=30)
@given(
    there=st.sets(st.tuples(folders, st.integers(0, 60)), max_size=120),
    asked=st.sets(st.tuples(folders, st.integers(0, 60)), max_size=120),
    page=st.sampled_from([1, 3, 1000]),
    few=st.sampled_from([1, 5, 48]),
)
def test_among_is_the_same_as_asking_one_by_one(there, asked, page, few):
    space = Objects(InMemory("s3", "memory", ""))
    for folder, number in there:
        space.put(f"{folder}/{number}", b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.store.objects._PAGE", page)
        patch.setattr("orchestrator.store.objects._FEW", few)
        found = space.among(f"{folder}/{number}" for folder, number in asked)
    assert found == {f"{folder}/{number}" for folder, number in asked & there}


# The cache


def test_a_blob_is_fetched_once(wire, bucket):
    ref = Store.open(bucket).put_blob(b"content")
    wire.asked.clear()
    files = {open_bytes(bucket).local(blob_path(ref.digest)) for _ in range(3)}
    assert len(files) == len(wire.asked) == 1
    file = files.pop()
    assert file.read_bytes() == b"content"
    assert file.stat().st_mode & 0o222 == 0

    file.chmod(0o644)
    file.write_bytes(b"damaged")
    assert open_bytes(bucket).local(blob_path(ref.digest)).read_bytes() == b"content"
    assert len(wire.asked) == 2


def test_what_this_machine_made_is_not_fetched(wire, bucket):
    space = space_at(bucket)
    with space.scratch() as file:
        file.write_bytes(b"made here")
        ref = keep_file(space, file)
        assert not file.exists()
    wire.asked.clear()
    assert space.local(blob_path(ref.digest)).read_bytes() == b"made here"
    assert wire.asked == []


def test_processes_fetch_the_same_blob_at_once(wire, bucket, child):
    ref = Store.open(bucket).put_blob(LARGE)
    processes = [child("fetch", bucket, blob_path(ref.digest), 3) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=60)[0].split() == [ref.digest] * 3


def test_what_can_change_is_fetched_anew(wire, bucket):
    space = space_at(bucket)
    for data in (b"first", b"second"):
        space.put("a/x", data)
        assert space.local("a/x").read_bytes() == data


def test_drafts_of_killed_processes_are_swept(wire, bucket, tmp_path):
    space = space_at(bucket)
    with space.scratch() as file:
        file.write_bytes(b"12345")
        assert space.sweep(time.time() - 60, apply=True) == (0, 0)
        assert space.sweep(time.time() + 60, apply=False) == (1, 5)
        assert space.sweep(time.time() + 60, apply=True) == (1, 5)
        assert not file.exists()


def test_a_cache_that_cannot_be_written_is_told_in_one_line(wire, bucket, monkeypatch):
    monkeypatch.setenv("LIMBECK_CACHE", "/proc/limbeck")
    space = space_at(bucket)
    ref = Store.open(bucket).put_blob(b"x")
    with pytest.raises(StoreError, match=r"cannot write to the cache /proc/limbeck.*LIMBECK_CACHE") as error:
        space.local(blob_path(ref.digest))
    one_line(error)


# A whole store


@pytest.fixture
def filled(wire, bucket, filler):
    """A store in a bucket with a chain of three artifacts."""
    fill = filler(Store.open(bucket))
    experts = fill.artifact("experts", shards=("e0", "e1"))
    distilled = fill.artifact("distilled", shards=("d0",), inputs=[experts])
    return fill, [experts, distilled, fill.artifact("scores", shards=("s0",), inputs=[distilled])]


def test_one_changed_byte_is_found_past_the_cache_and_put_right(filled, bucket):
    fill, chain = filled
    store = fill.store
    key = fill.key("shard", "e1")
    ref = store.shard(key).record.files["value.json"]
    data = store.shard(key).file("value.json").read_bytes()  # now it is in the cache
    store.bytes.put(blob_path(ref.digest), data[:-1] + b"!")
    found = verify(store)
    assert [(one.kind, one.shard) for one in found.problems] == [("corrupt", key)] * len(found.problems) != []
    repaired = verify(store, repair=True)
    assert (repaired.dropped_artifacts, repaired.dropped_shards) == ([chain[0]], [key])
    fill.artifact("experts", shards=("e0", "e1"))
    assert verify(Store.open(bucket, create=False)).ok


def test_a_damaged_blob_is_never_used(filled, monkeypatch, tmp_path):
    fill, _ = filled
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "another"))
    store = Store.open(fill.store.uri, create=False)
    shard = store.shard(fill.key("shard", "e0"))
    digest = shard.record.files["value.json"].digest
    store.bytes.put(blob_path(digest), b"x" * shard.record.files["value.json"].size)
    with pytest.raises(CorruptBlob, match=r"value.json: blobs/.* has content of sha256"):
        shard.document("value")


def test_collection_lineage_and_export(filled, tmp_path):
    fill, chain = filled
    store = fill.store
    fill.run("r", stages=[("experts", chain[0])], plan={"experts": [fill.key("shard", "e0")]})
    assert [node["id"] for node in lineage(store, chain[2])["up"]] == [chain[1], chain[0]]
    copied = export(store, chain[0], tmp_path / "out")
    assert (copied / "shards/name=e0/value.json").exists()
    assert collect(store, apply=True).artifacts.count == 0
    now = time.time() + 60
    gone = collect(store, apply=True, grace_s=time.time() - now)
    assert (gone.artifacts.count, gone.shards.count) == (2, 2)
    assert set(store.artifact_ids()) == {chain[0]}
    assert verify(store).ok


def test_tensors_and_progress_of_a_bucket(wire, bucket, filler):
    import torch

    from orchestrator.task import Progress

    store = Store.open(bucket)
    key = filler.key("tensors")
    weights = torch.arange(12.0).reshape(4, 3)
    store.save_progress(key, Progress({"w": weights}, {"epoch": 1}))
    assert torch.equal(store.load_progress(key).tensors["w"], weights)
    store.commit_shard(key, {"n": 1}, "n=1", Output(tensors={"t": {"w": weights}}))
    opened = Store.open(bucket, create=False).shard(key)
    assert torch.equal(opened.tensors("t", rows=[3, 1])["w"], weights[[3, 1]])
    store.drop_progress(key)
    assert store.load_progress(key) is None


def test_the_parts_of_a_gangs_progress_in_a_bucket(wire, bucket, filler):
    import torch

    from orchestrator.task import Progress

    store, key = Store.open(bucket), filler.key("gang")
    for step in (1, 2):
        parts = [store.put_part(key, {name: torch.full((3,), float(step))}) for name in "ab"]
        store.save_progress(key, Progress({}, {"step": step}), parts)
    assert len(list(store.bytes.list("work"))) == 1 + 2, "a record and the parts that it names"
    found = Store.open(bucket).load_progress(key)
    assert (found.facts, found.tensors["a"].tolist()) == ({"step": 2}, [2.0, 2.0, 2.0])
    store.drop_progress(key)
    assert list(store.bytes.list("work")) == []
