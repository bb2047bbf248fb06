"""`limbeck report`: one HTML page of a run, or of a search."""

from pathlib import Path

from orchestrator.console import Console
from orchestrator.identity import alive
from orchestrator.projection import REPORT
from orchestrator.report.subject import find_run
from orchestrator.report.writing import page_of, write_page
from orchestrator.store import Store
from orchestrator.trials import Book
from orchestrator.verbs.found import find_search, write_search_page


def report(text: str | None, store_uri: str, out: Path | None, as_json: bool) -> None:
    """Writes report.html into the run's folder, or among the search's results, or to `out`, and says where."""
    console, store = Console(as_json=as_json), Store.open(store_uri, create=False)
    book = find_search(store, text)
    told = _of_run(store, text, out) if book is None else _of_search(store, book, out)
    if as_json:
        return console.answer(told)
    return console.print(told["path"])


def _of_run(store: Store, text: str | None, out: Path | None) -> dict[str, str]:
    run = store.run(find_run(store, text))
    state = "interrupted" if run.state == "running" and not alive(run) else run.state
    path = out or page_of(store, run.run_id)
    write_page(store, run, state, path)
    return {"run_id": run.run_id, "state": state, "path": str(path)}


def _of_search(store: Store, book: Book, out: Path | None) -> dict[str, str]:
    path = out or book.results / REPORT
    write_search_page(book, store, path)
    return {"search": book.id, "path": str(path)}
