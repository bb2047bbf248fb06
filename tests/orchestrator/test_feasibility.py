"""How many workers fit, and which demands cannot be met."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.experiment import Resources
from orchestrator.feasibility import Offer, merged
from orchestrator.task import Needs

OFFER = Offer(where="a machine", cpus=4, gpus=1, memory_gb=8, disk_gb=10)
sizes = st.floats(0.1, 16)


@given(sizes, st.floats(0, 4), sizes)
def test_what_fits_fits_and_one_more_does_not(cpus, gpus, memory):
    needs = Needs(cpus=cpus, gpus=gpus, memory_gb=memory)
    fit = OFFER.fits(needs)
    asked = [(cpus, OFFER.cpus), (gpus, OFFER.gpus), (memory, OFFER.memory_gb)]
    assert all(fit * each <= offered + 1e-6 for each, offered in asked)
    assert any((fit + 1) * each > offered for each, offered in asked)


@pytest.mark.parametrize(
    ("needs", "fit"), [(Needs(), 4), (Needs(memory_gb=5), 1), (Needs(gpus=0.25), 4), (Needs(gpus=2), 0)]
)
def test_fits(needs, fit):
    assert OFFER.fits(needs) == fit


def test_what_a_stage_asks_wins_over_what_the_task_needs():
    asked = merged(Needs(cpus=1, memory_gb=2), Resources(gpus=0.5, threads=2))
    assert asked == Needs(cpus=1, gpus=0.5, memory_gb=2, threads=2)
