import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.experiment import parse_settings
from tasks.llm_distillation.models.student_model import (
    Student,
    chosen_layers,
    initial_student,
    parameter_count,
    student_config,
)
from tests.tasks.llm_distillation import tiny

FAMILIES = {"llama": "model.layers", "gpt2": "transformer.h"}
DEPTH = {"llama": "num_hidden_layers", "gpt2": "n_layer"}


def teacher_of(family, layers=5):
    return getattr(tiny, family)(40, **{DEPTH[family]: layers})


def made(setting, teacher, seed=0):
    return initial_student(parse_settings(Student, setting), teacher.config, lambda: teacher, seed)


@given(st.integers(1, 40), st.integers(1, 40))
def test_layers_are_spread_evenly(layers, available):
    if layers > available:
        with pytest.raises(ValueError, match=f"the teacher has {available}"):
            chosen_layers(layers, available)
        return
    chosen = chosen_layers(layers, available)
    assert len(chosen) == layers
    assert list(chosen) == sorted(set(chosen))
    assert chosen[0] == 0
    if layers > 1:
        assert chosen[-1] == available - 1
        steps = {second - first for first, second in itertools.pairwise(chosen)}
        assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_are_the_teacher_itself(family):
    teacher = teacher_of(family)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(made({"layers": 5}, teacher)(ids).logits, teacher(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("layers", "expected"), [(3, (0, 2, 4)), ([1, 4], (1, 4))])
def test_chosen_layers_are_copied_with_embedding_and_head(family, layers, expected):
    teacher = teacher_of(family)
    student, stack = made({"layers": layers}, teacher), FAMILIES[family]
    own, theirs = student.state_dict(), teacher.state_dict()
    for name, value in own.items():
        source = name
        if name.startswith(stack):
            place = name.removeprefix(f"{stack}.").partition(".")
            source = f"{stack}.{expected[int(place[0])]}.{place[2]}"
        assert torch.equal(value, theirs[source]), name
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    assert len(student.get_submodule(stack)) == len(expected)
    before = theirs[f"{stack}.0.{place[2]}"].clone()
    with torch.no_grad():
        for weight in student.parameters():
            weight.zero_()
    assert torch.equal(teacher.state_dict()[f"{stack}.0.{place[2]}"], before)


def test_an_untied_head_is_copied_too():
    teacher = tiny.llama(40, tie_word_embeddings=False)
    student = made({"layers": 1}, teacher)
    assert torch.equal(student.lm_head.weight, teacher.lm_head.weight)
    assert not torch.equal(student.lm_head.weight, student.model.embed_tokens.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_student_has_the_sizes_asked_for_and_the_seed_decides(family):
    teacher = teacher_of(family)
    setting = {"layers": 2, "fresh": True, "hidden_size": 16, "heads": 2}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    students = [made(setting, teacher, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (student.get_input_embeddings().weight for student in students)
    assert first.shape == (40, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    config = students[0].config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 16, 2)
    assert students[0](torch.arange(9)[None]).logits.shape == (1, 9, 40)
    assert sum(weight.numel() for weight in students[0].parameters()) == parameter_count(
        student_config(parse_settings(Student, setting), teacher.config)
    )


def test_a_fresh_student_never_asks_for_the_teacher():
    def load_teacher():
        raise AssertionError

    student = Student(layers=2, fresh=True)
    assert initial_student(student, tiny.llama(40).config, load_teacher, 0).config.hidden_size == 32


def test_a_model_of_its_own(tiny_llama):
    student = Student.model_validate(str(tiny_llama))
    found = initial_student(student, tiny.llama(40).config, lambda: pytest.fail("not asked for"), 0)
    assert found.config.num_hidden_layers == 2
    assert student_config(student, tiny.llama(40).config).vocab_size == found.config.vocab_size


def test_settings_by_layer_follow_the_layers():
    config = tiny.llama(40).config
    config.layer_types = ["sliding_attention", "full_attention"]
    assert student_config(Student(layers=(1,)), config).layer_types == ["full_attention"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({}, "give one of them"),
        ({"model": "a", "layers": 2}, "takes nothing else"),
        ({"layers": 2, "heads": 2}, "`heads` cannot be changed where weights are copied: add `fresh: true`"),
        ({"layers": [0, 1], "fresh": True}, "give `layers` as a number"),
        ({"layers": 0}, "expected a number above 0"),
        ({"layers": -1}, "expected a number above 0"),
        ({"layers": []}, "expected a number above 0"),
        ({"layers": [-1]}, "counted from 0"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(ValidationError, match=message):
        parse_settings(Student, setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layers": 3}, "layers 3: the teacher has 2"),
        ({"layers": [0, 2]}, "expected ascending ones from 0 to 1"),
        ({"layers": [1, 0]}, "expected ascending ones"),
        ({"layers": 1, "fresh": True, "hidden_size": 30, "heads": 4}, "hidden_size 30 is no multiple of its 4 heads"),
        ({"layers": 1, "fresh": True, "kv_heads": 3}, "no multiple of 3 kv_heads"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_teacher_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        student_config(parse_settings(Student, setting), tiny.llama(40).config)
