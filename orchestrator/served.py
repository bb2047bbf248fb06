"""Artifacts as models of MLflow's, without their weights: such a model names an artifact and reads it from its store.

MLflow calls `_load_pyfunc` of the module that an `MLmodel` file names (its flavour python_function). Nothing is
pickled, and nothing is copied: the files of a model are an MLmodel and one JSON of a few hundred bytes.
"""

import datetime
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import LimbeckError
from orchestrator.task import Json, Rows

REFERENCE = "artifact.json"
MLMODEL = "MLmodel"


def model_files(model: Mapping[str, Json], time_ms: int) -> dict[str, str]:
    """Name to text of the files of a model, as an event has it: kind, takes, gives, and `reference` to the artifact.

    The same event gives the same files. YAML is written as JSON, which it contains.
    """
    made = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    described = {
        "flavors": {
            "python_function": {
                "loader_module": __name__,
                "data": REFERENCE,
                "python_version": platform.python_version(),
            }
        },
        "signature": {
            "inputs": _schema(Rows(**model["takes"]), "text"),
            "outputs": _schema(Rows(**model["gives"]), "answer"),
            "params": None,
        },
        "utc_time_created": made,
        "metadata": {"limbeck": model["reference"]},
    }
    return {MLMODEL: json.dumps(described, indent=1), REFERENCE: json.dumps(model["reference"], indent=1)}


def _schema(rows: Rows, name: str) -> str:
    """As MLflow writes schemas: JSON within the YAML. A list of texts is a table of one column."""
    if rows.dtype == "string":
        return json.dumps([{"type": "string", "name": name, "required": True}])
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": rows.dtype, "shape": [-1, *rows.shape]}}])


class _Asked:
    """What MLflow calls."""

    def __init__(self, answer: Any, rows: Rows) -> None:
        self._answer, self._rows = answer, rows

    def predict(self, rows: Any, params: Mapping[str, Any] | None = None) -> Any:
        """`rows`: an array, or a table whose one column holds texts."""
        texts = self._rows.dtype == "string"
        return self._answer(rows.iloc[:, 0].tolist() if texts else rows)


def _load_pyfunc(path: str) -> _Asked:
    """The model that a reference file names. LimbeckError where its artifact is gone or another one."""
    from orchestrator.catalogue import find_task
    from orchestrator.store import Store

    reference = json.loads(Path(path).read_text())
    artifact = Store.open(reference["store"], create=False).artifact(reference["artifact"])
    if artifact.digest != reference["digest"]:
        raise LimbeckError(
            f"artifact {artifact.id} in store {reference['store']}: found digest {artifact.digest}, expected "
            f"{reference['digest']}; it was made anew: take the model of the run that did so"
        )
    task = find_task(reference["task"])
    served = task.serves(artifact.facts)
    assert served is not None, f"{reference['task']} serves no models any more"
    return _Asked(task.asked(artifact), served.takes)
