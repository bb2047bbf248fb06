import pytest
from figures import figures


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_ends_with_its_figures():
    found, _ = figures("loss_sweep.py", "--small")
    assert found["ratio"] > 0
    assert found["cells_per_hour"] > 0
    assert found["arrangement"].keys() == {"workers", "threads", "stack"}
