"""What all tests share: one thread, and files that they write go to folders of their own."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: bits depend on it, and so does the time

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's `pytest &` has children ignore it, for good

settings.register_profile("limbeck", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("limbeck")  # a busy machine is no failure


LONGEST = ("test_examples.py", "test_readme.py")
"""These begin, so that no worker is left alone with them at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("faults"):
            item.add_marker("slow")
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _away_from_the_users_store(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_STORE", str(tmp_path / "default-store"))
