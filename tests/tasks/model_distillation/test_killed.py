"""SIGKILL to the driver while labels are made, and again while students learn from them; then run to the end."""

import pytest
from engine import Bench, digests

from tests.test_examples import ROOT, kill_when, progress

ARGV = [
    "run", str(ROOT / "examples/digits_students.yaml"), "teacher.epochs=2", "labels.epochs=4", "labels.batch_size=50",
    "labels.views_per_shard=1500", "students.methods=[control, kdpp, dhkd]", "students.repeats=2",
    "students.epochs=6", "labels.progress_s=0", "students.progress_s=0", "--json",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_among_labels_and_among_students_it_ends_with_the_same_digests(tmp_path):
    undisturbed = Bench(tmp_path / "undisturbed").limbeck(*ARGV).json
    bench = Bench(tmp_path / "killed")

    def shards() -> int:
        return len(list(bench.store.glob("shards/*/*.json")))

    kill_when(bench, ARGV, lambda: 1 < shards() < 5 and progress(bench))
    kill_when(bench, ARGV, lambda: shards() > 5 and progress(bench))
    answer = bench.limbeck(*ARGV).json
    assert digests(answer) == digests(undisturbed)
    stages = answer["stages"]
    assert [stages[name]["state"] for name in ("teacher", "labels")] == ["cached", "cached"]
    assert stages["students"]["cached_shards"] > 0
    assert bench.limbeck("artifacts", "verify", "--json").json["ok"]
