import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A folder for remembered digests that no other test sees."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LIMBECK_CACHE", str(folder))
    return folder


@pytest.fixture
def pictures() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Makes random uint8 images (N, 8, 8, C) and labels that go round the classes."""

    def make(number: int = 12, channels: int = 3, classes: int = 3, seed: int = 0, side: int = 8):
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 256, (number, side, side, channels), dtype=np.uint8)
        return images, np.arange(number) % classes

    return make


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
