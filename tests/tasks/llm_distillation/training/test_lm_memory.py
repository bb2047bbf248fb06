"""What the state of a training takes."""

import pytest

from tasks.llm_distillation.training.lm_memory import state_bytes
from tasks.llm_distillation.training.zero import Zero


@pytest.mark.parametrize(("stage", "per_parameter"), [(0, 16), (1, 8 + 12 / 4), (2, 4 + 16 / 4), (3, 20 / 4)])
def test_a_stage_splits_what_it_says(stage, per_parameter):
    assert state_bytes(1000, Zero(stage=stage), "fp32", 4) == pytest.approx(1000 * per_parameter, abs=1)


def test_bf16_holds_narrow_weights_beside_wide_ones():
    wide, narrow = (state_bytes(1000, Zero(stage=2), kind, 1) for kind in ("fp32", "bf16"))
    assert wide - narrow == 2000
