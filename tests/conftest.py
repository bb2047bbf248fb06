"""What all tests share: one thread, and files that they write go to folders of their own."""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: bits depend on it, and so does the time


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _away_from_the_users_store(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_STORE", str(tmp_path / "default-store"))
