import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param, _validate_tag

from orchestrator.mlflow_names import image_key, mlflow_key, path_part, shorten

letters = "ab1./=,:[]() -_~+%#\u00e4\n"
names = st.one_of(st.text(letters, min_size=1, max_size=12), st.text(min_size=1, max_size=300))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("scores.distilled_accuracy", "scores.distilled_accuracy"),
        ("loss/expert=3,seed=1", "loss/expert:3 seed:1"),
        ("scores[network.width=32,seed=1].accuracy_se", "scores/network.width:32 seed:1 .accuracy_se"),
        ("top-1", "top-1"),
    ],
)
def test_readable_keys(name, key):
    assert mlflow_key(name) == key


@given(names)
@example("..")
@example("a/../b")
@example("/")
@example("a]\n")
def test_mlflow_takes_every_key(name):
    key = mlflow_key(name)
    _validate_metric_name(key)
    _validate_param(key, "value")
    _validate_tag(key, "value")
    assert len(key) <= 250


@given(st.lists(names, min_size=2, max_size=40, unique=True))
@example(["a=b", "a:b"])
@example(["a,b", "a b"])
@example(["s[a=1].b", "s/a=1,.b", "s/a:1 .b"])
@example(["a\u00e4", "a\u00f6"])
def test_distinct_names_stay_distinct(several):
    for function in (mlflow_key, image_key, path_part):
        assert len({function(name) for name in several}) == len(several)


@given(names)
def test_a_key_made_of_another_name_is_not_taken_twice(name):
    for function in (mlflow_key, image_key, path_part):
        made = function(name)
        assert made == name or function(made) != made


@given(names)
def test_image_keys_are_parts_of_file_names(name):
    key = image_key(name)
    assert re.fullmatch(r"[\w./=, -]{1,120}", key, re.ASCII)
    assert not set("+%~#") & set(key)
    assert re.fullmatch(r"[\w.-]{1,120}", path_part(name), re.ASCII)
    assert path_part(name) not in (".", "..")


def test_long_values_end_in_an_ellipsis():
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("x" * 11, 10) == "x" * 7 + "..."
