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
