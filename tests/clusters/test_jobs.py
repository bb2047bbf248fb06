"""The job book: kept for its owner alone, found again by the beginning of an id."""

import stat

import pytest

from clusters import jobs
from clusters.jobs import Job
from orchestrator.errors import LimbeckError, UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    return tmp_path


def job(name, submitted=0):
    profile = {"kind": "local"}
    return Job(
        id=name, cluster="local", profile=profile, argv=("run", "a.yaml"), submitted=submitted, handle="h"
    )


def test_what_is_kept_is_found_newest_first():
    for name, submitted in (("walks-1", 5), ("walks-2", 7), ("digits-1", 6)):
        jobs.keep(job(name, submitted))
    assert [one.id for one in jobs.jobs()] == ["walks-2", "digits-1", "walks-1"]
    assert jobs.find_job("dig") == job("digits-1", 6)
    assert jobs.find_job("walks-1") == job("walks-1", 5)


def test_its_files_are_for_their_owner_alone(home):
    jobs.keep(job("walks-1"))
    assert stat.S_IMODE((home / "jobs" / "walks-1").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "jobs" / "walks-1" / "job.json").stat().st_mode) == 0o600
    assert [path.name for path in (home / "jobs" / "walks-1").iterdir()] == ["job.json"]


def test_what_is_kept_again_replaces():
    jobs.keep(job("walks-1"))
    jobs.keep(job("walks-1").model_copy(update={"ended": "done"}))
    assert [one.ended for one in jobs.jobs()] == ["done"]


def test_a_name_of_none_or_of_several():
    assert jobs.jobs() == []
    for name in ("walks-1", "walks-2"):
        jobs.keep(job(name))
    with pytest.raises(UserError, match=r"there is no job 'walks'; several begin so: walks-\d, walks-\d"):
        jobs.find_job("walks")
    with pytest.raises(UserError, match="did you mean 'walks-1'"):
        jobs.find_job("walk-1")


def test_a_broken_record_is_named(home):
    jobs.keep(job("walks-1"))
    (home / "jobs" / "walks-1" / "job.json").write_text("{")
    with pytest.raises(LimbeckError, match="not the record of a job"):
        jobs.jobs()
