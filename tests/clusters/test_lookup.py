"""Profiles are found by name or path, and every mistake in one has its place."""

import pytest

from clusters import local_job
from clusters.launcher import described
from clusters.lookup import cluster_of, find_cluster, names
from clusters.profile import NodeResources, Profile
from orchestrator.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "profiles"
    folder.mkdir(parents=True)
    return folder


def test_ours_are_there_and_valid(home):
    assert {"local"} <= set(names())
    for name in names():
        assert find_cluster(name).name == name


def test_by_name_and_by_path(home, tmp_path):
    (home / "mine.yaml").write_text("kind: local\nretries: 3\n")
    elsewhere = tmp_path / "there.yaml"
    elsewhere.write_text("kind: local\nretries: 4\n")
    assert find_cluster("mine").profile.retries == 3
    assert find_cluster(str(elsewhere)).profile.retries == 4
    assert find_cluster("mine").kind is local_job


def test_the_users_own_hide_ours(home):
    (home / "local.yaml").write_text("kind: local\nretries: 5\n")
    assert find_cluster("local").profile.retries == 5


def test_a_job_has_its_profile_from_its_values():
    cluster = cluster_of("local", {"kind": "local", "time_limit_s": 60})
    assert cluster.profile.time_limit_s == 60


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("kind: lokal\n", ":1", "kind: found 'lokal'; did you mean 'local'?"),
        ("retries: 1\n", "", "kind: missing; expected one of local, "),
        ("kind: local\nretry: 1\n", ":2", "retry: unknown key; did you mean 'retries'?"),
        (
            "kind: local\n\nretries: -1\n",
            ":3",
            "retries: found -1: Input should be greater than or equal to 0",
        ),
        ("kind: local\nretries: '1'\n", ":2", 'retries: found "1": Input should be a valid integer'),
        (
            "kind: local\nmounts: {}\n",
            ":2",
            "mounts: found {}: not for this kind: nothing is mounted; leave it out",
        ),
        ("kind: local\nkind: slurm\n", ":2", "kind: written twice"),
        ("- local\n", "", "found list, expected a mapping with `kind`"),
    ],
)
def test_a_mistake_has_its_place(home, text, line, message):
    (home / "bad.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        find_cluster("bad")
    assert str(refused.value).startswith(f"{home}/bad.yaml{line}: {message}")


def test_an_unknown_name_and_a_missing_file(home, tmp_path):
    with pytest.raises(UserError, match=r"there is no cluster 'locl'; did you mean 'local'"):
        find_cluster("locl")
    with pytest.raises(UserError, match=r"cannot be read: .*give the path of a profile's YAML file"):
        find_cluster(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("field", [{"env": ["A=1"]}, {"env": ["1A"]}, {"mounts": {"data": "x"}}])
def test_what_a_profile_cannot_say(field):
    with pytest.raises(ValueError, match=r"a variable's name|an absolute path"):
        Profile.model_validate({"kind": "slurm", **field}, strict=False)


def test_a_line_for_listings():
    profile = Profile(kind="slurm", resources=NodeResources(nodes=2, cpus=8, gpus=4, memory_gb=64))
    assert described(profile) == "2 x 8 cpu, 4 gpu, 64 GB"
