import shutil

import pytest

from orchestrator.tracking import default_artifacts, default_uri, prepare


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    store = tmp_path_factory.mktemp("template")
    prepare(default_uri(store), default_artifacts(store))
    return store / "tracking" / "mlflow.db"


@pytest.fixture
def store(tmp_path, template):
    """A store's folder with MLflow's tables in it."""
    (tmp_path / "store" / "tracking").mkdir(parents=True)
    shutil.copy(template, tmp_path / "store" / "tracking" / "mlflow.db")
    return tmp_path / "store"
