import itertools
import json

import pytest

from orchestrator.errors import UserError
from orchestrator.store import lineage


def ids(nodes) -> list[str]:
    return [node["id"] for node in nodes]


def test_up_to_the_data_and_down_to_the_scores(store, fill, chain):
    experts, distilled, scores = chain
    found = lineage(store, scores)
    assert ids(found["up"]) == [distilled, experts]
    assert found["down"] == []
    assert found["up"][1]["data"] == [{"name": "data", "digest": "d0"}]
    assert found["up"][1]["commit"] == "c0"
    assert found["up"][0]["inputs"]["field0"] == {"id": experts, "digest": store.artifact(experts).digest}
    assert found["artifact"]["stage"] == "scores"
    assert ids(lineage(store, experts)["down"]) == [distilled, scores]
    assert (ids(lineage(store, distilled)["up"]), ids(lineage(store, distilled)["down"])) == (
        [experts],
        [scores],
    )
    assert json.loads(json.dumps(found)) == found


def test_a_diamond_is_told_once(store, fill):
    top = fill.artifact("top")
    left, right = fill.artifact("left", inputs=[top]), fill.artifact("right", inputs=[top])
    bottom = fill.artifact("bottom", inputs=[left, right])
    assert ids(lineage(store, bottom)["up"]) == [left, right, top]
    assert set(ids(lineage(store, top)["down"])) == {left, right, bottom}


def test_what_is_gone_is_told(store, fill, chain):
    store.drop_artifact(chain[0])
    assert lineage(store, chain[2])["up"][-1] == {"id": chain[0], "missing": True}
    with pytest.raises(UserError, match="there is no artifact"):
        lineage(store, chain[0])


def test_what_was_made_is_told_as_it_would_tell_itself(store, chain):
    for up, below in itertools.pairwise(chain):
        assert lineage(store, up)["down"][0] == lineage(store, below)["artifact"]
