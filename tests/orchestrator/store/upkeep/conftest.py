"""The same fixtures as above; a chain of three artifacts on top."""

import pytest


@pytest.fixture
def chain(fill) -> list[str]:
    """experts of two shards -> distilled of one -> scores."""
    experts = fill.artifact("experts", shards=("e0", "e1"))
    distilled = fill.artifact("distilled", shards=("d0",), inputs=[experts])
    return [experts, distilled, fill.artifact("scores", shards=("s0",), inputs=[distilled])]
