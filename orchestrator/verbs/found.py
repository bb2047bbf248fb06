"""What a search leaves for people: a page, a table, two plots and the best experiment, in its folder `results`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from orchestrator.errors import LimbeckError
from orchestrator.experiment import read_experiment
from orchestrator.places import home
from orchestrator.projection import REPORT
from orchestrator.report.search_page import Plot, render_search
from orchestrator.report.subject import find_run
from orchestrator.report.writing import page_of
from orchestrator.search import overrides
from orchestrator.searchplots import DARK, LIGHT, history, parallel
from orchestrator.store import Store
from orchestrator.trials import Book, Row, as_csv, best_of, ranked
from orchestrator.yaml import write_values


def find_search(store: Store, text: str | None) -> Book | None:
    """The search that `text` means: its id or the start of it, or an experiment (None: any) whose newest run is one of
    its trials. None where it means a run."""
    found = (home(store.uri) / "searches").glob("*/search.json")
    folders = {str(json.loads(path.read_text())["id"]): path.parent for path in found}
    if not folders:
        return None
    if text is None or any(run.experiment == text for run in store.runs()):
        names = [find_run(store, text).rpartition("-")[0]]
    else:
        names = [name for name in folders if name.startswith(text)]
    return Book(folders[names[0]], {}) if len(names) == 1 and names[0] in folders else None


def write_search_page(book: Book, store: Store, path: Path) -> None:
    """Writes the page of a search, as it is now, to `path`; LimbeckError where that cannot be written."""
    rows = book.settled(book.asked.search.count)
    _write_page(book, store, path, rows, _plots(book, rows), _best(book, rows))


def save_results(book: Book, store: Store) -> Path:
    """Writes report.html and trials.csv, and where a trial is done history.png, parallel.png and best.yaml.

    Returns where the page is.
    """
    rows, folder = book.rows(book.asked.search.count), book.results
    plots, best = _plots(book, rows), _best(book, rows)
    _write_page(book, store, folder / REPORT, rows, plots, best)
    (folder / "trials.csv").write_text(as_csv(ranked(rows, book.asked.search)))
    for name, plot in plots.items():
        (folder / f"{name}.png").write_bytes(plot.light)
    if best is not None:
        (folder / "best.yaml").write_text(best)
    return folder / REPORT


def _write_page(
    book: Book, store: Store, path: Path, rows: Sequence[Row], plots: Mapping[str, Plot], best: str | None
) -> None:
    of_runs = {row.number: page_of(store, row.run_id) for row in rows}
    pages = {
        number: quote(os.path.relpath(page.resolve(), path.parent.resolve()))
        for number, page in of_runs.items()
        if page.exists()
    }
    try:
        path.write_text(render_search(book.asked, book.id, rows, best, plots, pages), encoding="utf-8")
    except OSError as error:
        raise LimbeckError(f"{path}: cannot write: {error.strerror}; name another file by --out") from error


def _plots(book: Book, rows: Sequence[Row]) -> dict[str, Plot]:
    search = book.asked.search
    if best_of(rows, search) is None:
        return {}
    drawings = {"history": history, "parallel": parallel}
    return {name: Plot(*(draw(rows, search, on) for on in (LIGHT, DARK))) for name, draw in drawings.items()}


def _best(book: Book, rows: Sequence[Row]) -> str | None:
    """The experiment of the best trial as YAML, its overrides merged in; None where no trial is done."""
    asked = book.asked
    best = best_of(rows, asked.search)
    if best is None:
        return None
    made = read_experiment(book.folder / "experiment.yaml", [*asked.given, *overrides(best.point)])
    head = f"# The best of search {book.id}: trial {best.number}, {asked.search.metric} {best.metric:.6g}.\n"
    return head + write_values({name: value for name, value in made.values.items() if name != "search"})
