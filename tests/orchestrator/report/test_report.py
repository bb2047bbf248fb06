"""The page of a run, over a store that the engine's own writers made: whole, escaped, and loading nothing."""

import io
import json
import re
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.errors import UserError
from orchestrator.report.curves import apart, charts, measure, thinned, ticks
from orchestrator.report.graph import Box
from orchestrator.report.numbers import number_tables, split_names
from orchestrator.report.page import render
from orchestrator.report.pictures import is_drawing
from orchestrator.report.search_page import Plot, render_search
from orchestrator.report.subject import find_run, read_subject
from orchestrator.searchplots import DARK, LIGHT, history, parallel
from orchestrator.spool import Spool
from orchestrator.store import RunRecord, Store
from orchestrator.store.records import StageRecord
from orchestrator.task import Output
from orchestrator.trials import Asked, Row

SECTIONS = ["results", "pictures", "curves", "texts", "lineage", "tables", "time", "failures", "again"]
KEY, BAD = "a" * 32, "b" * 32
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.images, self.loads, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.sections += [values["id"]] if tag == "section" else []
        self.images += [values] if tag == "img" else []
        self.loads += [values[name] for name in ("src", "srcset", "href") if name in values]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a shard that is done, with curve, picture, table and texts, and one that failed."""
    folder = tmp_path_factory.mktemp("report")
    store = Store.open(str(folder / "store"))
    png = io.BytesIO()
    Image.new("RGB", (40, 30)).save(png, "PNG")
    blob = store.put_blob(png.getvalue())
    shown = [{"name": "grid", "step": step, "blob": blob.digest, "size": blob.size} for step in (0, 5)]
    curve = [{"step": step, "values": {"loss": 1.0 / (step + 1)}, "time_ms": 1} for step in range(5)]
    history = store.put_blob(json.dumps(curve).encode())
    output = Output(metrics={"kd_accuracy": 0.9, "kd_accuracy_se": 0.01, "control_accuracy": 0.8})
    store.commit_shard(KEY, {"n": 0}, "n=0", output, history=history, previews=shown)
    store.save_plan("r-1", {"s": [KEY, BAD]})
    stage = StageRecord(
        stage="s", task="t", artifact=None, state="failed", computed_shards=1, failed_shards=1,
        planned_seconds=75.0, planned_bytes=3_000_000,
    )  # fmt: skip
    store.save_run(
        RunRecord(run_id="r-1", experiment=f"r{EVIL}", document={"name": EVIL}, overrides=[], state="failed",
                  started=1, ended=2000, stages=[stage])
    )  # fmt: skip
    store.save_failure("r-1", "s", "n=1", {"error": f"ValueError: {EVIL}", "traceback": EVIL})
    events = folder / "store" / "runs" / "r-1" / "events.jsonl"
    spool = Spool(events)
    for step in range(3):
        spool.metrics("s", "n=1", step, {"loss": 2.0})
    spool.close()
    return store, events


def test_every_section_is_there_and_nothing_is_loaded(made):
    store, events = made
    page = Page(render(read_subject(store, "r-1", events), "failed"))
    assert page.sections == SECTIONS
    assert len(page.images) == 2
    assert all(image["alt"] and int(image["width"]) > 0 and int(image["height"]) > 0 for image in page.images)
    assert all(load.startswith(("#", "data:")) for load in page.loads)


def test_text_of_users_stays_text(made):
    store, events = made
    text = render(read_subject(store, "r-1", events), "failed")
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;" in text


def test_a_failed_shard_is_named_and_its_curve_ends_in_a_cross(made):
    store, events = made
    text = render(read_subject(store, "r-1", events), "failed")
    assert "<strong>s n=1</strong>: ValueError" in text
    assert text.count('class="cross"') == 1
    assert "n=1 (cut short) &times;" in text
    assert "1 of 2" in text


def test_a_line_bears_the_name_of_its_dataset(tmp_path):
    """Shards know data by its digest alone: a file may be renamed."""
    store = Store.open(str(tmp_path / "store"))
    digests = {name: sha256(name.encode()).hexdigest() for name in ("adult", "wdbc")}
    keys = []
    for number, digest in enumerate(digests.values()):
        curve = [{"step": step, "values": {"loss": 1.0 / (step + 1)}, "time_ms": 1} for step in range(3)]
        history, key = store.put_blob(json.dumps(curve).encode()), str(number) * 32
        store.commit_shard(key, {}, f"data={digest[:16]},loss=bce", Output(), history=history)
        keys.append(key)
    facts = {"datasets": [{"label": name, "data": digest} for name, digest in digests.items()]}
    made = store.make_manifest(
        key=KEY, kind="k", task="t", version=1, config={}, seed=0, inputs={}, facts=facts, output=Output(),
        shard_keys=keys,
    )  # fmt: skip
    stage = StageRecord(stage="s", task="t", artifact=store.publish(made).id, state="done")
    store.save_plan("r-1", {"s": keys})
    store.save_run(
        RunRecord(
            run_id="r-1", experiment="r", document={}, overrides=[], state="done", started=1, stages=[stage]
        )
    )
    [chart] = charts(read_subject(store, "r-1", tmp_path / "none"))
    assert [line.label for line in chart.lines] == ["data=adult", "data=wdbc"]


def test_the_same_run_gives_the_same_page(made):
    store, events = made
    assert render(read_subject(store, "r-1", events), "failed") == render(
        read_subject(store, "r-1", events), "failed"
    )


def test_what_was_planned_stands_beside_what_it_took(made):
    store, events = made
    row = (
        render(read_subject(store, "r-1", events), "failed")
        .partition('id="time"')[2]
        .partition("</tbody>")[0]
    )
    assert "1 min 15 s" in row
    assert "3.0 MB" in row


ASKED = Asked(
    f"x{EVIL}",
    {"name": EVIL, "search": {"metric": "s.accuracy", "space": {
        "s.lr": {"loguniform": [0.1, 1.0]}, "s.option": {"choice": [EVIL, "b"]},
    }}},
    ("seed=3",),
    "c0ffee-dirty",
)  # fmt: skip


def search_page(rows):
    drawings = {"history": history, "parallel": parallel} if rows else {}
    plots = {
        name: Plot(*(draw(rows, ASKED.search, paper) for paper in (LIGHT, DARK)))
        for name, draw in drawings.items()
    }
    return render_search(ASKED, "x-1", rows, "name: best\n", plots, {2: "../runs/x-1-0002/report.html"})


def test_the_page_of_a_search_has_the_best_the_table_and_the_plots():
    common = {"run_id": "x-1-0000", "point": {"s.lr": 0.5, "s.option": EVIL}}
    rows = [
        Row(number=0, state="done", metric=0.5, curve=((1, 0.1), (2, 0.5)), **common),
        Row(number=1, state="stopped", metric=0.25, curve=((1, 0.25),), **common),
        Row(
            number=2,
            state="done",
            metric=0.75,
            seconds=75.0,
            metrics={"accuracy": 0.75, "loss": 0.125},
            **common,
        ),
        Row(number=3, state="failed", error=EVIL, **common),
    ]
    text = search_page(rows)
    page = Page(text)
    assert page.sections == ["best", "trials", "history", "parallel", "curves", "space", "again"]
    assert "Trial 2: <strong>0.75</strong> in 1 min 15 s" in text
    assert re.findall(r'<th scope="row">(?:<a [^>]*>)?(\d)', text) == list("2013")
    assert len(page.images) == 2
    assert page.tags.count("source") == 2, "each plot on dark paper too"
    assert text.count('class="cross"') == 1
    links = [load for load in page.loads if not load.startswith(("#", "data:"))]
    assert links == ["../runs/x-1-0002/report.html"] * 2, "the best, and its row; no other has a page"
    assert text.count('<th scope="col">loss</th>') == text.count('<td class="number">0.125</td>') == 1
    assert "git checkout c0ffee\nlimbeck tune &#39;x&lt;script" in text
    assert "<code>seed=3</code> in it" in text
    assert "script" not in page.tags
    assert text == search_page(rows)


def test_the_page_of_a_search_without_a_trial_that_is_done():
    page = Page(search_page([]))
    assert page.images == []
    assert "No trial is done." in search_page([])


def test_a_run_is_found_by_id_start_and_experiment(made):
    store, _ = made
    assert [find_run(store, text) for text in (None, "r-1", "r-", f"r{EVIL}")] == ["r-1"] * 4
    with pytest.raises(UserError, match="no run 'x'"):
        find_run(store, "x")


def test_metrics_that_share_a_measure_stand_in_one_column():
    metrics = {"kd_accuracy": 0.9, "kd_accuracy_se": 0.01, "control_accuracy": 0.8, "steps": 3.0}
    (table,) = number_tables({"students": [("", metrics)]})
    assert list(table.measures) == ["accuracy", "steps"]
    assert [name for name, _ in table.rows] == ["kd", "control", ""]
    assert table.rows[0][1][0].error == 0.01
    assert split_names(["held_out_loss"]) == {"held_out_loss": ("", "held_out_loss")}


def test_lines_are_named_by_what_tells_them_apart():
    assert apart(["set=a, seed=0", "set=b,seed=0"]) == ["set=a", "set=b"]
    assert apart(["seed=0", "seed=0"]) == ["seed=0", "seed=0"]
    assert [len(name) for name in apart(["x" * 200, "y"])] == [80, 1]
    assert (measure("step_ms"), measure("memory_gb"), measure("s")) == ("step (ms)", "memory (GB)", "s")


@given(st.text(st.sampled_from("abc_=, \u00b1."), max_size=120))
def test_texts_of_the_lineage_fit_into_their_boxes(text):
    rows = Box("x", "made", (text,), ()).rows
    assert all(len(row) <= 22 for row in rows)
    assert "".join(rows).replace(" ", "") == text.replace(" ", "")


def test_only_pictures_on_white_paper_are_drawings():
    paper, photograph = Image.new("RGB", (40, 30), "white"), Image.new("RGB", (40, 30), "white")
    paper.paste((0, 114, 178), (10, 5, 30, 25))
    photograph.paste((90, 60, 30), (0, 0, 30, 25))
    assert is_drawing(paper)
    assert not is_drawing(photograph)


def test_ticks_are_round_and_long_curves_thin():
    assert ticks(0.0, 1.0, False) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0.01, 10.0, True) == pytest.approx([0.01, 0.1, 1.0, 10.0])
    points = [(step, 0.0) for step in range(1001)]
    assert len(thinned(points)) <= 202
    assert thinned(points)[-1] == points[-1]
