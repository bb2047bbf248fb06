"""What a person sees of a finished run, in a real browser: the report, and MLflow's own page."""

import re
from pathlib import Path
from urllib.parse import quote

import mlflow
import numpy as np
import pytest
from browser import chromium, looking
from engine import Bench
from mlflow.tracking import MlflowClient
from mlflow_views import runs_of

from orchestrator.store import Store
from orchestrator.tracking import default_uri
from orchestrator.ui import serve
from tasks.model_distillation.distill_student import asked_student

TEXT = """\
name: seen
stages:
  experts: {task: expert_trajectories, dataset: digits, network: {width: 8, depth: 1}, experts: 2, stack: 1,
            epochs: 3, batch_size: 64, lr: 0.05}
  distilled: {task: trajectory_matching, experts: "${experts}", images_per_class: 1, iterations: 6,
              expert_epochs: 1, max_start_epoch: 2, student_steps: 2, pixel_lr: 10, preview_every: 2}
  students: {task: distill_student, dataset: digits, student: {name: convnet, width: 4, depth: 1}, repeats: 1,
             epochs: 1, methods: [control], batch_size: 64}
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store with one run in it, and what the run answered."""
    bench = Bench(tmp_path_factory.mktemp("seen"), TEXT)
    return bench, bench.run()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_is_whole_and_loads_nothing(browser, run, scheme, width):
    bench, answer = run
    page = bench.store / "runs" / answer["run_id"] / "report.html"
    with looking(browser, scheme, width) as seen:
        seen.open(page.as_uri())
        pictures = seen.page.evaluate("[...document.images].map(one => one.complete && one.naturalWidth > 0)")
        assert len(pictures) >= 7
        assert all(pictures)
        assert seen.complaints == []
        assert seen.requests == [page.as_uri()]
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width, (
            "the page scrolls sideways"
        )
        assert seen.page.evaluate(CUT_OFF) == []
        seen.keep(f"report-{scheme}-{width}")


CUT_OFF = """() => [...document.querySelectorAll('.box')].flatMap(box => {
  const frame = box.querySelector('rect').getBoundingClientRect();
  return [...box.querySelectorAll('text')].filter(text => {
    const own = text.getBoundingClientRect();
    return own.right > frame.right || own.bottom > frame.bottom;
  }).map(text => text.textContent);
})"""
"""Texts of the lineage that do not fit into their boxes."""


def test_a_dark_page_is_dark_with_its_plots(browser, run):
    bench, answer = run
    with looking(browser, "dark") as seen:
        seen.open((bench.store / "runs" / answer["run_id"] / "report.html").as_uri())
        styles = "[...document.querySelectorAll('img')].map(one => [one.alt, getComputedStyle(one).filter])"
        turned = {alt for alt, style in seen.page.evaluate(styles) if "invert" in style}
        assert {alt.partition(" of ")[0] for alt in turned} == {
            "matching loss",
            "accuracy",
            "curves",
            "reliability",
        }


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # mlflow.pyfunc 3.17, when it is imported
def test_a_student_is_a_model_of_mlflows_that_answers_from_the_store(run):
    bench, answer = run
    client = MlflowClient(tracking_uri=default_uri(bench.store))
    stage = runs_of(client, "seen")["students"]
    (output,) = stage.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.model_type, str(model.status)) == ("seen students", "classifier", "READY")
    final = {one.key: one.value for one in model.metrics}
    assert final == answer["stages"]["students"]["metrics"]
    assert model.tags["limbeck.artifact"] == answer["stages"]["students"]["artifact"]
    folder = Path(model.artifact_location.removeprefix("file://"))
    assert {file.name for file in folder.iterdir()} == {"MLmodel", "artifact.json"}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3000

    loaded = mlflow.pyfunc.load_model(str(folder))
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    artifact = Store.open(str(bench.store), create=False).artifact(answer["stages"]["students"]["artifact"])
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    np.testing.assert_array_equal(loaded.predict(images), asked_student(artifact)(images))
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        loaded.predict(images[:, :, :4])


@pytest.fixture(scope="module")
def mlflow_page(browser, run):
    """MLflow's own page: its address, that of the experiment there, and the experiment's runs by stage."""
    store = run[0].store
    stages = runs_of(MlflowClient(tracking_uri=default_uri(store)), "seen")
    with serve(store, default_uri(store), port=0) as url:
        yield f"{url}/#/experiments/{stages[''].info.experiment_id}", stages


SHOWN = "[...document.images].some(one => one.src.includes(PLACE) && one.complete && one.naturalWidth > 100)"


def test_mlflows_page_finds_a_run_by_search(browser, mlflow_page):
    address, _ = mlflow_page
    with looking(browser) as seen:
        asked = "tags.`limbeck.dataset` LIKE '%digits%' AND tags.`limbeck.task` = 'trajectory_matching'"
        seen.open(f"{address}/runs?searchFilter={quote(asked)}")
        seen.page.get_by_text("matching runs").wait_for()
        seen.page.get_by_text("seen", exact=True).last.wait_for()
        seen.keep("mlflow-search")
        found = seen.page.get_by_text("matching runs").inner_text()
        assert found == "2 matching runs", "the stage, and the run that it is of"


def test_mlflows_page_shows_pictures_and_the_report(browser, mlflow_page):
    address, stages = mlflow_page
    distilled, whole = stages["distilled"], stages[""]
    with looking(browser) as seen:
        seen.open(f"{address}/runs/{distilled.info.run_id}/artifacts")
        seen.page.get_by_text("images", exact=True).click()
        seen.page.get_by_text(re.compile("synthetic.*png")).first.click()
        seen.page.wait_for_function(SHOWN.replace("PLACE", "'blob:'"))
        seen.keep("mlflow-artifact")
        seen.open(f"{address}/runs/{distilled.info.run_id}/model-metrics")
        seen.page.wait_for_function(SHOWN.replace("PLACE", "'images%2Fsynthetic'"))
        seen.keep("mlflow-slider")
        seen.open(f"{address}/runs/{whole.info.run_id}/artifacts")
        seen.page.get_by_text("report.html", exact=True).click()
        report = seen.page.frame_locator("iframe")
        report.get_by_role("heading", name="Run it again").wait_for()
        seen.keep("mlflow-report")


def test_mlflows_page_shows_the_student_as_a_model(browser, mlflow_page):
    address, _ = mlflow_page
    with looking(browser) as seen:
        seen.open(f"{address}/models")
        seen.page.get_by_text("seen students", exact=True).click()
        seen.page.get_by_test_id("key-value-Source run").wait_for()
        seen.page.get_by_role("link", name="students", exact=True).first.wait_for()
        metrics = seen.page.get_by_test_id("logged-model-details-metrics-table")
        metrics.get_by_text("control_accuracy", exact=True).wait_for()
        seen.keep("mlflow-model")
