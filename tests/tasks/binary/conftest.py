import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(autouse=True)
def folders(tmp_path_factory, monkeypatch) -> Path:
    """A data folder and remembered digests that no other test sees; the data folder."""
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path_factory.mktemp("cache")))
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("LIMBECK_DATA", str(folder))
    return folder


@pytest.fixture
def refuses() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """A block that must raise a ValueError of one line that holds every one of the words."""

    @contextlib.contextmanager
    def block(*words: object) -> Iterator[None]:
        with pytest.raises(ValueError, match=r".") as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert str(word) in message

    return block


@pytest.fixture
def mixed() -> pa.Table:
    """60 rows of two numbers, one of them with gaps, one category with gaps, and a target of text."""
    generator = np.random.default_rng(0)
    age = generator.integers(18, 80, 60).astype(float)
    age[::7] = np.nan
    colour = [None if row % 11 == 5 else ["red", "green", "blue"][row % 3] for row in range(60)]
    answer = ["yes" if value > 0.3 else "no" for value in generator.random(60)]
    return pa.table({"age": age, "income": generator.normal(50, 9, 60), "colour": colour, "target": answer})


@pytest.fixture
def mixed_file(mixed, tmp_path) -> Path:
    pq.write_table(mixed, tmp_path / "Mixed rows.parquet")
    return tmp_path / "Mixed rows.parquet"
