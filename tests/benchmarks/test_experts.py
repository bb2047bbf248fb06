import pytest
from figures import figures


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_ends_with_its_figures():
    found, printed = figures("experts.py", "--small")
    assert found["ratio"] > 0
    assert found["ratio_without_tests"] > 0
    assert found["ratio_memory_kept"] > 0
    assert found["experts_per_hour"] > 0
    assert found["arrangement"].keys() == {"workers", "threads", "stack"}
    assert "forward, backward, step" in printed
