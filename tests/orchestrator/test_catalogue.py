"""Tasks are found in our table and in other packages; their source is known by its content."""

import pytest

from orchestrator.catalogue import find_task, import_task, source_digest, targets
from orchestrator.errors import LimbeckError, UserError
from tasks import DATASETS, TASKS
from tasks.data import READERS


def test_every_task_of_the_table_can_be_imported_and_documents_each_setting():
    for name in TASKS:
        task = find_task(name)
        assert task.version >= 1
        assert (task.__doc__ or "").strip()
        assert all(field.description for field in task.Config.model_fields.values()), name


def test_the_list_of_datasets_is_that_of_the_readers():
    assert set(DATASETS) == set(READERS)


def test_a_task_of_another_package_is_found():
    assert targets()["toy_walk"] == "toytasks:Walk"
    assert find_task("toy_walk").makes == "walks"


def test_unknown_and_broken_tasks_are_said():
    with pytest.raises(UserError, match="did you mean 'toy_walk'"):
        find_task("toy_walks")
    with pytest.raises(LimbeckError, match="cannot be imported"):
        import_task("toytasks:Run")
    with pytest.raises(LimbeckError, match="cannot be imported"):
        import_task("no_such_module:Task")


def test_a_sources_digest_covers_what_it_imports_of_its_package():
    digests = {name: source_digest(target) for name, target in TASKS.items()}
    assert len(set(digests.values())) == len(TASKS)
    assert all(len(digest) == 32 for digest in digests.values())


LINES = {
    "relative_one": "from .maths import one",
    "relative_module": "from . import maths",
    "absolute_one": "from absolute_one.maths import one",
    "absolute_module": "import absolute_module.maths",
}


@pytest.mark.parametrize("name", LINES)
def test_a_sources_digest_follows_imports_of_every_form(tmp_path, monkeypatch, name):
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text(f"{LINES[name]}\n")
    (package / "maths.py").write_text("one = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = source_digest(f"{name}.method:Task")
    (package / "maths.py").write_text("one = 2\n")
    source_digest.cache_clear()
    assert source_digest(f"{name}.method:Task") != before
