"""What a search leaves for people: a page, a table, two plots and the best experiment, in its folder `results`."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.experiment import load_experiment
from orchestrator.projection import REPORT
from orchestrator.report.search_page import render_search
from orchestrator.search import overrides
from orchestrator.searchplots import history, parallel
from orchestrator.spaces import Space
from orchestrator.trials import Book, Row, as_csv, best_of, ranked
from orchestrator.yaml import write_values


def save_results(book: Book, rows: Sequence[Row], space: Space, given: Sequence[str]) -> None:
    """Writes report.html and trials.csv, and where a trial is done history.png, parallel.png and best.yaml."""
    folder, search, best = book.results, space.search, best_of(rows, space.search)
    plots = {"history": history(rows, search), "parallel": parallel(rows, search)} if best else {}
    best_yaml = _best(book, best, space, given) if best else None
    page = render_search(space.name, book.id, rows, search, space.document, best_yaml, plots)
    (folder / REPORT).write_text(page, encoding="utf-8")
    (folder / "trials.csv").write_text(as_csv(ranked(rows, search)))
    for name, plot in plots.items():
        (folder / f"{name}.png").write_bytes(plot)
    if best_yaml is not None:
        (folder / "best.yaml").write_text(best_yaml)


def _best(book: Book, best: Row, space: Space, given: Sequence[str]) -> str:
    """The experiment of a trial as YAML, its overrides merged in."""
    experiment = load_experiment(Path(book.folder / "experiment.yaml"), [*given, *overrides(best.point)])
    head = f"# The best of search {book.id}: trial {best.number}, {space.search.metric} {best.metric:.6g}.\n"
    return head + write_values(experiment.document)
