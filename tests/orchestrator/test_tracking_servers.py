"""MLflow as a team has it: a PostgreSQL and files in S3, both real servers."""

import hashlib
import io
from pathlib import Path

import pytest
import s3
from mlflow.tracking import MlflowClient
from mlflow_views import runs_of, snapshot
from PIL import Image
from postgres import postgres

from orchestrator.spool import Spool
from orchestrator.tracking import Tracker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def servers():
    """The URI of an empty database, and of a bucket for MLflow's files."""
    with pytest.MonkeyPatch.context() as patch, postgres() as uri:
        server = s3.Server()
        try:
            s3.environment(patch, server.url, MLFLOW_S3_ENDPOINT_URL=server.url, NO_PROXY="127.0.0.1")
            server.bucket("mlflow")
            yield uri, "s3://mlflow/files"
        finally:
            server.stop()


def png(digest):
    file = io.BytesIO()
    Image.new("RGB", (20, 10), digest).save(file, "PNG")
    return file.getvalue()


def tell(spool):
    spool.run_started("r1", "digits", {"seed": 0}, {"commit": "c0ffee"})
    spool.stage_started(
        "s", "t", {"lr": 0.1}, {"dataset": "digits"}, [{"name": "d", "digest": "e" * 64, "source": "{}"}]
    )
    for step in range(3):
        spool.metrics("s", "", step, {"loss": 1.0 / (1 + step), "far": float("inf")})
        spool.preview("s", "", "synthetic", step, "red")
    model = {
        "kind": "classifier", "takes": {"dtype": "uint8", "shape": [1, 8, 8]},
        "gives": {"dtype": "float32", "shape": [10]},
        "reference": {"store": "/nowhere", "task": "t", "artifact": "a" * 32, "digest": "b" * 64},
    }  # fmt: skip
    spool.stage_ended("s", "done", {"accuracy": 0.5}, "a" * 32, "b" * 64, {"files": []}, model=model)
    spool.run_ended("done")
    page = spool.path.with_name("report.html")
    page.write_text("<p>page</p>")
    spool.report(page, hashlib.sha256(page.read_bytes()).hexdigest())


def test_everything_arrives_once_in_postgresql_and_s3(servers, tmp_path):
    uri, root = servers
    spool = Spool(tmp_path / "runs" / "r1" / "events.jsonl")
    tell(spool)
    found = []
    for start in (0, 0, spool.size // 2):
        spool.advance(uri, start)
        tracker = Tracker(uri, spool, png, root)
        assert (tracker.close(200), tracker.refused) == (0, 0), tracker.error
        found.append(snapshot(MlflowClient(tracking_uri=uri)))
    assert found[0] == found[1] == found[2]
    stage = found[0]["r1", "s"]
    assert [step for step, *_ in stage["metrics"]["loss"]] == [0, 1, 2]
    assert len([name for name, _ in stage["files"] if name.startswith("images/")]) == 6
    assert found[0]["r1", None]["files"] == [("report.html", 11)]

    client = MlflowClient(tracking_uri=uri)
    run = runs_of(client)["s"]
    assert run.info.artifact_uri.startswith(f"{root}/digits/")
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (str(model.status), model.model_type) == ("READY", "classifier")
    assert [(one.key, one.value, one.step) for one in model.metrics] == [("accuracy", 0.5, 2)]
    assert len(stage["metrics"]["accuracy"]) == 1
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    local = client.download_artifacts(runs_of(client)[""].info.run_id, "report.html", str(tmp_path))
    assert Path(local).read_text() == "<p>page</p>"
