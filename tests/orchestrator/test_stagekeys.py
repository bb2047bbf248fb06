"""Keys hold the content-to-be and nothing else."""

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.keys import digest
from orchestrator.stagekeys import content_digests, shard_key, shard_keys, stage_key
from orchestrator.task import Input, Role, Settings, Shard


class Data(Settings):
    """Data known by its content."""

    path: str
    """Where it lies."""

    def content_digest(self) -> str:
        return "d" + self.path[-1]


class Net(Settings):
    """A nested setting."""

    width: int = 8
    """Units."""
    name: str = "mlp"
    """Name."""


class Config(Settings):
    """Settings of a task."""

    data: Data = Data(path="/a/x")
    """Data."""
    experts: Annotated[int, Role.PLAN] = 2
    """Only plans."""
    title: Annotated[str, Role.CLOSING] = "t"
    """Only for the closing step."""
    source: Annotated[str, Input("numbers")] = "${stage}"
    """An input."""
    rate: float = 0.1
    """A setting."""
    net: Net = Net()
    """A nested one."""
    grid: tuple[int, ...] = ()
    """A list."""


SHARD = Shard({"expert": 0})


DEFAULT = Config()


def key(
    config: Config = DEFAULT, shard: Shard = SHARD, seed: int = 0, version: int = 1, source: str = "k"
) -> str:
    return shard_key("task", version, seed, config, {"source": source}, shard)


def test_what_changes_a_shards_key():
    changed = [
        key(seed=1),
        key(version=2),
        key(source="other"),
        key(shard=Shard({"expert": 1})),
        key(Config(rate=0.2)),
        key(Config(net=Net(width=9))),
        key(Config(grid=(1,))),
        key(Config(data=Data(path="/a/y"))),
    ]
    assert len({key(), *changed}) == 1 + len(changed)


def test_what_does_not_change_a_shards_key():
    same = [
        key(Config(experts=5)),
        key(Config(title="other")),
        key(Config(source="${elsewhere}")),
        key(Config(data=Data(path="/moved/to/x"))),
        key(Config(rate=0.1, net=Net(width=8), grid=())),
        key(shard=Shard({"expert": 0}, disk_bytes=9)),
    ]
    assert set(same) == {key()}


def test_a_shard_leaves_out_what_it_ignores():
    control = Shard({"set": "random"}, ignores=frozenset({"source", "rate"}))
    assert key(shard=control) == key(Config(rate=0.9), shard=control, source="other")
    assert key(shard=control) != key(Config(grid=(1,)), shard=control)


def test_default_data_is_in_the_key_by_its_digest():
    assert key(Config()) != key(Config(data=Data(path="/a/z")))
    assert content_digests(Config()) == {"data": "dx"}


def test_a_stages_key_is_that_of_its_shards_inputs_and_closing_step():
    def stage(config=DEFAULT, keys=("a", "b"), inputs=("k",)):
        return stage_key("task", 1, config, {"source": inputs[0]}, keys)

    assert stage() == stage(Config(rate=0.5, experts=9))
    assert len({stage(), stage(Config(title="u")), stage(keys=("b", "a")), stage(inputs=("l",))}) == 4


@given(st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.booleans(), min_size=1))
def test_the_order_of_an_identity_does_not_matter(identity):
    backwards = dict(reversed(identity.items()))
    assert key(shard=Shard(identity)) == key(shard=Shard(backwards))


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_keys_are_32_hex_digits_and_differ_with_the_seed(one, other):
    assert len(key(seed=one)) == 32
    assert (key(seed=one) == key(seed=other)) == (one == other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_refuse_what_is_not_finite(value):
    with pytest.raises(ValueError, match="finite"):
        Config(rate=value)


def test_a_key_is_the_digest_of_what_it_is_made_of():
    shards = [Shard({"expert": 0}), Shard({"b": [1.0], "a": "é"}, frozenset({"source", "rate"}))]
    config = Config(rate=0.3, experts=5)
    keys = list(shard_keys("task", 1, 0, config, {"source": "k"}, shards))
    for shard, found in zip(shards, keys, strict=True):
        kept = {"rate": 0.3} if "rate" not in shard.ignores else {}
        inputs = {"source": "k"} if "source" not in shard.ignores else {}
        settings = {"data": {"digest": "dx"}, **kept}
        whole = {"settings": settings, "inputs": inputs, "shard": shard.identity}
        assert found == digest({"task": "task", "version": 1, "seed": 0, **whole})
