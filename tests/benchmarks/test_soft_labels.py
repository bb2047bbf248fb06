import pytest
from figures import figures


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_ends_with_its_figures():
    found, printed = figures("soft_labels.py", "--small")
    assert found["throughput_ratio"] > 0
    assert found["reader_ratio"] > 0
    assert found["cached_images_per_s"] > 0
    assert found["step_ms_read"] > 0
    assert "throughput_ratio" in printed.splitlines()[0]
