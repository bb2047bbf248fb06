import json

import pytest

from orchestrator.errors import CorruptBlob, UserError
from orchestrator.store import export
from orchestrator.task import Output


def tree(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_under_readable_names(store, chain, tmp_path):
    folder = export(store, chain[0], tmp_path / "new" / "copy")
    assert tree(folder) == [
        "README.md", "manifest.json", "shards/name=e0/value.json", "shards/name=e1/value.json", "summary.json",
    ]  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["digest"] == store.artifact(chain[0]).digest
    assert json.loads((folder / "shards/name=e1/value.json").read_text())["name"] == "e1"
    assert [path.name for path in folder.parent.iterdir()] == ["copy"]


def test_an_empty_folder_will_do_a_full_one_not(store, chain, tmp_path):
    (tmp_path / "empty").mkdir()
    export(store, chain[0], tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        export(store, chain[0], tmp_path / "full")
    assert tree(tmp_path / "full") == ["mine"]
    with pytest.raises(UserError, match="is a file"):
        export(store, chain[0], tmp_path / "full/mine")
    with pytest.raises(UserError, match="is not empty"):
        export(store, chain[1], tmp_path / "empty")


def test_the_same_again_puts_right_what_changed(store, chain, tmp_path):
    folder = export(store, chain[0], tmp_path / "copy")
    before = {path: (folder / path).read_bytes() for path in tree(folder)}
    (folder / "summary.json").write_text("changed")
    (folder / "shards/name=e0/value.json").unlink()
    (folder / "notes.txt").write_text("mine")
    export(store, chain[0], folder)
    after = {path: (folder / path).read_bytes() for path in tree(folder)}
    assert after == before | {"notes.txt": b"mine"}


def test_what_the_closing_step_took_over_is_there_once(store, fill, tmp_path):
    made = fill.artifact(
        "a", shards=("e0", "e1"), output=Output(documents={"value": {"name": "e0", "value": None}})
    )
    folder = export(store, made, tmp_path / "copy")
    before = tree(folder)
    assert before == ["README.md", "manifest.json", "shards/name=e1/value.json", "value.json"]
    assert json.loads((folder / "value.json").read_text())["name"] == "e0"
    (folder / "value.json").unlink()
    assert tree(export(store, made, folder)) == before


def test_a_copy_shares_no_file_with_the_store(store, fill, chain, tmp_path):
    folder = export(store, chain[0], tmp_path / "copy")
    (folder / "summary.json").write_text("changed")
    assert store.artifact(chain[0]).document("summary") == {"of": "experts"}


def test_broken_content_is_not_copied(store, fill, chain, tmp_path):
    fill.flip(store.manifest(chain[0]).files["summary.json"])
    with pytest.raises(CorruptBlob, match="verify --repair"):
        export(store, chain[0], tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_names_stay_inside_and_apart(store, fill, tmp_path):
    made = fill.artifact(
        "a", shards=("../../x", "a/b", "a:b", "..", ""), output=Output(documents={"manifest": {"mine": 1}})
    )
    folder = export(store, made, tmp_path / "copy")
    names = sorted(path.parent.name for path in folder.glob("shards/*/value.json"))
    assert len(names) == len(set(names)) == 5
    assert json.loads((folder / "files/manifest.json").read_text()) == {"mine": 1}
    assert json.loads((folder / "manifest.json").read_text())["id"] == made
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == ["copy"]


def test_the_readme_tells_the_way_back_to_data_and_commit(store, chain, tmp_path):
    text = (export(store, chain[2], tmp_path / "copy") / "README.md").read_text()
    assert text.startswith("# toys exp/scores\n")
    for made in chain:
        assert f"- `{made}` toys exp/" in text
        assert f"content `{store.artifact(made).digest}`" in text
    assert "commit c0" in text
    assert "data data `d0`" in text
    assert '"a": 1' in text


def test_a_tasks_own_card_opens_the_readme(store, fill, tmp_path):
    card = {"title": "Small student", "text": "It learned from `a`.\n\n| x |"}
    made = fill.artifact("a", output=Output(documents={"card": card}, metrics={"kd_accuracy": 0.912}))
    text = (export(store, made, tmp_path / "copy") / "README.md").read_text()
    assert text.startswith("# Small student\n\nIt learned from `a`.\n\n| x |\n\n## Metrics\n")
    assert "| kd_accuracy | 0.912 |" in text
