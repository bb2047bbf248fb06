"""What a person sees of a finished run, in a real browser: the report, and MLflow's own page."""

import pytest
from browser import chromium, looking
from engine import Bench

TEXT = """\
name: seen
stages:
  experts: {task: expert_trajectories, dataset: digits, network: {width: 8, depth: 1}, experts: 2, stack: 1,
            epochs: 3, batch_size: 64, lr: 0.05}
  distilled: {task: trajectory_matching, experts: "${experts}", matrix: {images_per_class: [1, 2]}, iterations: 6,
              expert_epochs: 1, max_start_epoch: 2, student_steps: 2, pixel_lr: 10, preview_every: 2}
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(browser, tmp_path_factory):
    """A store with one run in it, and what the run answered. Asks for the browser first: without one nothing runs."""
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
        assert len(pictures) >= 8
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
        assert {alt.partition(" of ")[0] for alt in turned} == {"matching loss"}
