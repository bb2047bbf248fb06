import json
import math
import re
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.keys import canonical, digest

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@given(values)
def test_round_trip_and_one_form(value):
    data = canonical(value)
    assert data.isascii()
    assert json.loads(data) == value
    assert canonical(json.loads(data)) == data
    assert len(digest(value)) == 32


@given(st.dictionaries(st.text(), leaves, min_size=2))
def test_order_of_keys_does_not_matter(value):
    assert canonical(dict(reversed(value.items()))) == canonical(value)


def test_values_that_differ_stay_apart():
    assert len({digest(value) for value in (1, 1.0, True, "1", [1], None)}) == 6
    assert canonical((1, (2,))) == canonical([1, [2]]) == b"[1,[2]]"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [0, {"b": math.nan}]}, "facts.a[1].b: nan"),
        ({"a": -math.inf}, "facts.a: -inf"),
        ({"a": {1: 2}}, "facts.a: key 1"),
        ({"a": {1, 2}}, "facts.a: {1, 2} (set)"),
        ({"a": b"x"}, "facts.a: b'x' (bytes)"),
        (Enum("Colour", "RED").RED, "facts: <Colour.RED: 1>"),
    ],
)
def test_refuses_what_json_cannot_hold(value, place):
    with pytest.raises(ValueError, match="^" + re.escape(place)):
        canonical(value, "facts")
