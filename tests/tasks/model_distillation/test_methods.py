import pytest
from pydantic import ValidationError

from tasks.model_distillation.methods import METHODS, Method


def method(value):
    return Method.model_validate(value)


@pytest.mark.parametrize("name", METHODS)
def test_every_name_is_a_method_of_its_own(name):
    made = method(name)
    assert made.label == name
    others = {method(other).formula for other in METHODS if other != name}
    assert made.formula not in others


def test_what_is_given_changes_what_the_name_stands_for():
    made = method({"name": "kdpp", "kd": {"temperature": 2.0}, "nd": 1, "ce": 0.5})
    assert made.kd.temperature == 2
    assert made.kd.warmup == method("kdpp").kd.warmup
    assert (made.nd.weight, made.ce.weight) == (1.0, 0.5)
    assert method({"name": "kd", "kd": {"temperature": 2.0}}).kd.weight == 0.9


def test_kdpp_is_kd_with_nd():
    given = {"name": "kd", "ce": 1, "kd": {"weight": 1.0, "warmup": 1 / 12}, "nd": 2.0}
    assert method(given).formula == method("kdpp").formula


def test_a_term_can_be_left_out():
    made = method({"name": "kdpp", "nd": None})
    assert "nd" not in made.terms
    assert made.needs() == {"logits"}


def test_the_formula_tells_what_is_computed_and_no_more():
    assert method("kd").formula == "ce0.1-kd0.9"
    assert method({"name": "kd", "title": "mine"}).formula == "ce0.1-kd0.9"
    assert method({"name": "kd", "kd": {"temperature": 4.0}}).formula == "ce0.1-kd0.9"
    assert method({"name": "kd", "kd": {"temperature": 2.0}}).formula == "ce0.1-kd0.9.temperature2.0"
    assert (
        method({"name": "multi_sample_dropout", "dropout": {"samples": 4}}).formula
        == "ce1.0-dropout.samples4"
    )


def test_what_of_the_teacher_is_needed():
    assert method("control").needs() == set()
    assert method("ensloss").needs() == set()
    assert method("dkdpp").needs() == {"logits", "features"}
    assert method("fitnet").needs() == {"features"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("kdd", "Input should be 'control', 'kd'"),
        ({"name": "kd", "kd": {"temperature": 0.0}}, "greater than 0"),
        ({"name": "kd", "nd": -1}, "greater than or equal to 0"),
        ({"name": "kd", "kd": {"temprature": 2.0}}, "Extra inputs are not permitted"),
        ({"name": "control", "ce": 0}, "no term of its loss has a weight"),
        ({"name": "kd", "title": "a b"}, "pattern"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        method(wrong)
