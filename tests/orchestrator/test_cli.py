"""The command line: its surface is frozen, its help is cheap, and every mistake ends in one line."""

import json
import subprocess
import sys
from importlib import metadata

import pytest
import typer

from orchestrator.cli import app

SURFACE = {
    "": "--version",
    "init": "path --json",
    "run": "experiment overrides --store --tracking --only --from --fresh --json",
    "tune": "experiment overrides --store --tracking --json",
    "plan": "experiment overrides --store --only --from --fresh --json",
    "launch": "experiment overrides --cluster --store --tracking --dry-run --json",
    "jobs": "--json",
    "status": "job --json",
    "logs": "job --follow",
    "stop": "job --json",
    "clusters": "name --check --json",
    "runs": "--store --pin --unpin --json",
    "report": "run --store --out --json",
    "tasks": "--json",
    "datasets": "--json",
    "schema": "task --json",
    "doctor": "--store --json",
    "ui": "--store --tracking --port",
    "artifacts ls": "--store --kind --task --tag --where --since --sort --reverse --limit --json",
    "artifacts show": "artifact --store --json",
    "artifacts lineage": "artifact --store --json",
    "artifacts diff": "artifact other --store --json",
    "artifacts tag": "artifact tags --store --remove --json",
    "artifacts verify": "names --store --repair --json",
    "artifacts export": "artifact folder --store --as --json",
    "artifacts gc": "--store --apply --keep --json",
}


def surface(command, name=""):
    """Verb to its arguments and options, in order; `command` is what typer makes of the app."""
    told = {name.strip(): " ".join(option.opts[0] for option in command.params)}
    if not hasattr(command, "commands"):
        return told
    parts = [surface(inner, f"{name} {verb}") for verb, inner in command.commands.items()]
    return {
        verb: options for part in [told if command.params else {}, *parts] for verb, options in part.items()
    }


def limbeck(*argv: str, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *argv], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_surface_is_frozen():
    assert surface(typer.main.get_command(app)) == SURFACE


def test_version():
    assert limbeck("--version").stdout == f"limbeck {metadata.version('limbeck')}\n"


def test_help_imports_nothing_heavy():
    heavy = ("ray", "torch", "mlflow", "pyarrow", "numpy", "pydantic", "sklearn")
    code = f"import sys, orchestrator.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_unknown_verb_and_option():
    assert "No such command 'rum'" in limbeck("rum", code=2).stderr
    assert "No such option" in limbeck("run", "x.yaml", "--stre", "s", code=2).stderr


def test_wrong_usage_answers_too():
    for argv in (["plan", "--json"], ["artifacts", "gc", "--keep", "-1", "--json"]):
        assert json.loads(limbeck(*argv, code=2).stdout)["exit_code"] == 2


def test_mistakes_are_one_line_and_one_object(tmp_path):
    done = limbeck("plan", str(tmp_path / "none.yaml"), "--store", str(tmp_path / "s"), "--json", code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert json.loads(done.stdout)["exit_code"] == 2


def test_tasks_datasets_and_schema_answer(tmp_path):
    tasks = {row["task"] for row in json.loads(limbeck("tasks", "--json").stdout)}
    assert {"expert_trajectories", "trajectory_matching", "evaluate_distilled"} <= tasks
    assert "digits" in {row["dataset"] for row in json.loads(limbeck("datasets", "--json").stdout)}
    schema = json.loads(limbeck("schema", "expert_trajectories", "--json").stdout)
    assert all("description" in field for field in schema["properties"].values())
    assert "epochs" in limbeck("schema", "expert_trajectories").stdout
    assert "methods[].kd.temperature: float = 4.0" in limbeck("schema", "distill_student").stdout


def test_schema_of_an_unknown_task():
    assert "did you mean 'trajectory_matching'" in limbeck("schema", "trajectory_matchin", code=2).stderr


def test_init_writes_an_experiment_that_can_be_planned_and_overwrites_nothing(tmp_path):
    path = tmp_path / "my first.yaml"
    assert json.loads(limbeck("init", str(path), "--json").stdout) == {"path": str(path)}
    plan = json.loads(limbeck("plan", str(path), "--store", str(tmp_path / "s"), "--json").stdout)
    assert plan["feasible"]
    assert list(plan["stages"]) == ["experts", "distilled", "scores"]
    assert f"limbeck run '{path}' " in path.read_text()
    path.write_text("mine")
    assert "is there already" in limbeck("init", str(path), code=2).stderr
    assert path.read_text() == "mine"
    assert "cannot be written" in limbeck("init", str(tmp_path / "none/x.yaml"), code=2).stderr


def test_doctor_answers(tmp_path):
    found = json.loads(limbeck("doctor", "--json", "--store", str(tmp_path / "s")).stdout)
    assert found["healthy"]
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("verb", ["show", "lineage", "export"])
def test_unknown_artifact(tmp_path, verb):
    extra = [str(tmp_path / "out")] if verb == "export" else []
    limbeck("artifacts", verb, "feed", *extra, "--store", str(tmp_path / "s"), code=2)
