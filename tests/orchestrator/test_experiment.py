"""YAML and overrides to a validated Experiment; each mistake is one line that says where and what next."""

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.experiment import load_experiment

GOOD = """\
name: walks
seed: 3
stages:
  walk: {task: toy_walk, walks: 2, steps: 4}
  total: {task: toy_total, walks: "${walk}", scale: 1e-1}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "exp.yaml"
    path.write_text(text)
    return path


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_experiment(write(tmp_path, text), overrides)
    return str(caught.value)


def test_good_file_gives_stages_in_order(tmp_path):
    text = GOOD.replace("  walk:", "  later:").replace("${walk}", "${later}")
    experiment = load_experiment(write(tmp_path, text))
    assert (experiment.name, experiment.seed) == ("walks", 3)
    assert [stage.name for stage in experiment.stages] == ["later", "total"]
    assert experiment.stages[1].sources == {"walks": "later"}


def test_exponents_are_numbers_and_no_is_a_word(tmp_path):
    total = load_experiment(write(tmp_path, GOOD)).stages[1].config
    assert total.scale == 0.1
    assert load_experiment(write(tmp_path, GOOD.replace("walks\n", "no\n", 1))).name == "no"


def test_order_in_the_file_does_not_matter(tmp_path):
    lines = GOOD.splitlines()
    swapped = "\n".join([*lines[:3], lines[4], lines[3]])
    assert [stage.name for stage in load_experiment(write(tmp_path, swapped)).stages] == ["walk", "total"]


def test_stages_follow_the_file_where_their_inputs_allow(tmp_path):
    text = GOOD + "  more: {task: toy_walk, walks: 2, steps: 5}\n"
    assert [stage.name for stage in load_experiment(write(tmp_path, text)).stages] == [
        "walk",
        "total",
        "more",
    ]


@pytest.mark.parametrize("name", ["walk.steps", "stages.walk.steps"])
def test_overrides_reach_settings(tmp_path, name):
    experiment = load_experiment(write(tmp_path, GOOD), [f"{name}=9", "seed=5"])
    assert (experiment.stages[0].config.steps, experiment.seed) == (9, 5)


def test_matrix_makes_instances_and_those_downstream_follow(tmp_path):
    text = GOOD.replace("steps: 4", "matrix: {steps: [4, 5], walks: [1, 2]}").replace("walks: 2, ", "")
    names = [stage.name for stage in load_experiment(write(tmp_path, text)).stages]
    assert names[:2] == ["walk[steps=4,walks=1]", "walk[steps=4,walks=2]"]
    assert names[4:] == [f"total[{name[5:-1]}]" for name in names[:4]]
    last = load_experiment(write(tmp_path, text)).stages[-1]
    assert last.sources == {"walks": "walk[steps=5,walks=2]"}


MISTAKES = {
    "unknown setting": (GOOD.replace("steps:", "step:"), "exp.yaml:4: stages.walk.step: unknown key", "'steps'"),
    "unknown top key": (GOOD + "sed: 1\n", "exp.yaml:6: sed: unknown key", "'seed'"),
    "unknown task": (GOOD.replace("toy_walk", "toy_wlk"), "exp.yaml:4: stages.walk.task", "'toy_walk'"),
    "wrong type": (GOOD.replace("steps: 4", "steps: four"), "exp.yaml:4: stages.walk.steps", '"four"'),
    "number as a word": (GOOD.replace("steps: 4", 'steps: "4"'), "stages.walk.steps", "valid integer"),
    "out of range": (GOOD.replace("walks: 2", "walks: 0"), "stages.walk.walks: found 0", "greater than"),
    "duplicate key": (GOOD.replace("seed: 3", "seed: 3\nseed: 4"), "exp.yaml:3: seed: written twice", "line 2"),
    "unknown reference": (GOOD.replace("${walk}", "${wlk}"), "exp.yaml:5: stages.total.walks", "'walk'"),
    "reference in a plain setting": (GOOD.replace("steps: 4", 'steps: "${total}"'), "stages.walk.steps", "cannot"),
    "missing setting": (GOOD.replace('walks: "${walk}", ', ""), "exp.yaml:5: stages.total.walks: missing", ""),
    "missing name": (GOOD.replace("name: walks\n", ""), "name: missing", ""),
    "no stages": ("name: x\nstages: {}\n", "exp.yaml:2: stages", "at least 1"),
    "not YAML": ("name: [x\n", "exp.yaml:2: not valid YAML", ""),
    "not a mapping": ("- 1\n", "expected a mapping", ""),
    "empty file": ("", "expected a mapping", ""),
    "a tag that runs code": ("name: !!python/name:os.system\n", "not valid YAML", ""),
    "an alias that holds itself": ("name: x\nstages: &x [*x]\n", "holds itself", ""),
    "a name too long": (GOOD.replace("name: walks", f"name: {'w' * 101}"), "name: found", "at most 100"),
    "matrix over an input": (GOOD.replace('"${walk}"', '"${walk}", matrix: {walks: [x]}'), "walks", "an input"),
    "matrix over nothing": (GOOD.replace("steps: 4", "matrix: {steps: []}"), "stages.walk.matrix.steps", "different"),
    "matrix of an unknown setting": (GOOD.replace("steps: 4", "matrix: {stps: [1]}"), "stages.walk.matrix", "'steps'"),
    "unknown resource": (GOOD.replace("steps: 4", "resources: {gpu: 1}"), "stages.walk.resources.gpu", "'gpus'"),
    "stage name": (GOOD.replace("  walk:", "  Walk:"), "stage name 'Walk'", "small letters"),
    "not an artifact": (GOOD.replace("${walk}", "walk"), "stages.total.walks: found 'walk'", "${stage}"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_said(tmp_path, mistake):
    text, place, hint = MISTAKES[mistake]
    message = refused(tmp_path, text)
    assert place in message
    assert hint in message
    assert len(message.splitlines()) == 1


def test_circles_are_refused(tmp_path):
    text = "name: x\nstages:\n" + "".join(
        f'  {name}: {{task: toy_total, walks: "${{{other}}}"}}\n' for name, other in ("ab", "bc", "ca")
    )
    assert "a -> b -> c -> a" in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps", "expected a.b=value"),
        ("walk..steps=1", "expected a.b=value"),
        ("walk.stps=1", "override stages.walk.stps=1: stages.walk.stps: unknown key; did you mean 'steps'?"),
        ("wlk.steps=1", "no such stage; did you mean 'walk'?"),
        ("walk.steps.deep=1", "not a mapping"),
        ("walk.steps=[1", "not valid YAML"),
    ],
)
def test_each_wrong_override_is_said(tmp_path, override, said):
    assert said in refused(tmp_path, GOOD, override)


def test_missing_and_binary_files_are_said(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(tmp_path / "none.yaml")
    (tmp_path / "exp.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(tmp_path / "exp.yaml")
