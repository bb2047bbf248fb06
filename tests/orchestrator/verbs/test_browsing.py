"""`limbeck artifacts ls`, `show`, `lineage`, `diff` and `tag`, over a store that the engine's own writers made."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from orchestrator.errors import UserError
from orchestrator.keys import digest
from orchestrator.preview import half_blocks
from orchestrator.selection import Selection
from orchestrator.store import InputRef, Store
from orchestrator.task import Output
from orchestrator.verbs import browsing


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Maker:
    """Publishes artifacts of a task that is known, with real settings."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def made(self, name, created, config, inputs=(), metrics=None, task="expert_trajectories", previews=()):
        refs = {field: InputRef(one, self.store.artifact(one).digest) for field, one in inputs}
        key = digest(["shard", name])
        self.store.commit_shard(key, {"set": 0}, "set=0", Output(documents={"value": name}))
        texts = [{"prompt": f"why {name}", "answer": "so"}, {"prompt": "how", "answer": "thus"}]
        output = Output(
            tables={"summary": pa.table({"set": ["distilled", "random"], "accuracy": [0.9, 0.7]})},
            documents={"samples": texts}, metrics=metrics or {},
        )  # fmt: skip
        manifest = self.store.make_manifest(
            key=digest(name), kind="toys", task=task, version=1, config=config, seed=0, inputs=refs,
            facts={"data_digest": "d0"}, output=output, shard_keys=[key], previews=previews,
            provenance={"created": created, "stage": name, "experiment": "exp", "commit": "c0"},
        )  # fmt: skip
        return self.store.publish(manifest).id


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two experts that differ in a setting, a distilled set of each, scores of each."""
    store = Store.open(str(tmp_path_factory.mktemp("browsing") / "store"))
    maker = Maker(store)
    blob = store.put_blob(png(np.full((4, 4, 3), (255, 0, 0))))
    picture = {"name": "grid", "step": 3, "blob": blob.digest, "size": blob.size}
    ids = {}
    for number, epochs in enumerate((50, 3)):
        config = {"dataset": {"name": "digits"}} | ({} if epochs == 50 else {"epochs": epochs})
        experts = maker.made(f"experts{number}", 10 * number + 1, config)
        distilled = maker.made(
            f"distilled{number}",
            10 * number + 2,
            {},
            [("experts", experts)],
            {"loss": 0.5},
            "gone",
            [picture],
        )
        scores = maker.made(
            f"scores{number}", 10 * number + 3, {}, [("distilled", distilled)], {"accuracy": 0.8 + number / 10},
            "gone",
        )  # fmt: skip
        ids |= {f"experts{number}": experts, f"distilled{number}": distilled, f"scores{number}": scores}
    return store, ids


@pytest.fixture
def ask(made, capsys):
    """Calls a verb; gives its JSON, or its lines."""

    def call(verb, *argv, as_json=True):
        verb(*argv, as_json)
        out = capsys.readouterr().out
        return json.loads(out) if as_json else out

    return call


def test_ls_by_metric_tag_and_date(made, ask):
    store, _ = made
    for _ in range(2):
        ask(browsing.tag, "scores0", ["paper"], store.uri, False)
    parts = {"kind": None, "task": None, "since": None, "sort": "made", "reverse": False, "limit": None}

    def listed(**asked):
        return [row["stage"] for row in ask(browsing.ls, store.uri, Selection.parsed(**parts | asked))]

    nothing = {"tags": [], "where": []}
    assert listed(**nothing | {"where": ["scores1.accuracy>0.85"]}) == ["scores1"]
    assert listed(**nothing | {"where": ["accuracy>0"], "sort": "accuracy"}) == ["scores1", "scores0"]
    assert listed(**nothing | {"tags": ["paper"]}) == ["scores0"]
    assert len(listed(**nothing | {"since": "1970-01-03"})) == 0
    rows = ask(browsing.ls, store.uri, Selection(tags=["paper"]))
    assert rows[0]["tags"] == ["paper"]
    assert rows[0]["metrics"] == {"accuracy": 0.8}
    table = ask(browsing.ls, store.uri, Selection(sort="accuracy", limit=2), as_json=False).splitlines()
    assert [line.split()[-1] for line in table] == ["accuracy", "0.9", "0.8"]
    assert "paper" in table[2]


def test_tags_come_off_again(made, ask):
    store, ids = made
    assert ask(browsing.tag, "experts1", ["b", "a"], store.uri, False) == {
        "artifact": ids["experts1"], "tags": ["a", "b"],
    }  # fmt: skip
    assert ask(browsing.tag, "experts1", ["a", "c"], store.uri, True)["tags"] == ["b"]
    assert "b" in ask(browsing.tag, "experts1", [], store.uri, False, as_json=False)
    for wrong in ("", "../x", "a/b", "a b", "x" * 101):
        with pytest.raises(UserError, match="expected up to 100"):
            browsing.tag("experts1", [wrong], store.uri, False, True)


def test_show_looks_into_it(made, ask):
    store, _ = made
    told = ask(browsing.show, "distilled0", store.uri)
    assert told["tags"] == []
    assert told["metrics"] == {"loss": 0.5}
    text = ask(browsing.show, "distilled0", store.uri, as_json=False)
    for part in ("summary, 2 rows", "random", "samples, sample 1", "prompt: why distilled0", "answer: thus"):
        assert part in text
    assert "\N{UPPER HALF BLOCK}" not in text  # no terminal, no colours


def test_half_blocks_hold_two_pixels_each():
    pixels = np.zeros((4, 3, 3))
    pixels[0, 0], pixels[1, 0] = (255, 0, 0), (0, 0, 255)
    text = half_blocks(png(pixels), 80, 24)
    assert text.plain == "\N{UPPER HALF BLOCK}" * 3 + "\n" + "\N{UPPER HALF BLOCK}" * 3 + "\n"
    first = text.spans[0].style
    assert (first.color.name, first.bgcolor.name) == ("#ff0000", "#0000ff")
    small = half_blocks(png(np.zeros((400, 300, 3))), 80, 24).plain.splitlines()
    assert len(small) <= 24
    assert len(small[0]) <= 80


def test_lineage_is_a_tree_both_ways(made, ask):
    store, ids = made
    text = ask(browsing.lineage, "distilled0", store.uri, as_json=False)
    up, down = text.split("made of it:\n")
    assert [line.strip("├└─│ ").split()[0] for line in up.splitlines()] == [
        ids["distilled0"][:12], "experts:", "data",
    ]  # fmt: skip
    assert ids["scores0"][:12] in down
    assert ids["scores1"][:12] not in text
    assert text.index("exp/distilled0") < text.index("exp/experts0") < text.index("exp/scores0")


def test_diff_tells_only_what_differs_and_follows_inputs(made, ask):
    store, ids = made
    told = ask(browsing.diff, "scores0", "scores1", store.uri)
    assert (told["a"], told["b"], told["same_content"]) == (ids["scores0"], ids["scores1"], False)
    found = {(one["where"], one["what"], one["name"]): (one["a"], one["b"]) for one in told["differences"]}
    assert found == {
        ("", "metric", "accuracy"): (0.8, 0.9),
        ("", "input", "distilled"): (ids["distilled0"], ids["distilled1"]),
        ("distilled", "input", "experts"): (ids["experts0"], ids["experts1"]),
        ("distilled/experts", "setting", "epochs"): (50, 3),
    }
    assert "epochs" in ask(browsing.diff, "scores0", "scores1", store.uri, as_json=False)
    same = ask(browsing.diff, "scores0", "scores0", store.uri)
    assert same["differences"] == []
    assert same["same_content"]
