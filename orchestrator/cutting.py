"""How a stage is cut into shards, where a measurement has a say in it. Only reads."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from orchestrator.catalogue import AnyTask
from orchestrator.choosing import choice_key
from orchestrator.experiment import Stage
from orchestrator.stagekeys import shard_keys, stage_key
from orchestrator.store import Manifest, Store
from orchestrator.store.measured import Measured, measured
from orchestrator.task import Choices, Facts, Json, Shard


@dataclass(frozen=True)
class Open:
    """What is still to be measured before the first shard of a stage."""

    key: str
    """Under which the outcome is to be pinned."""
    device: str
    settings: tuple[Mapping[str, Json], ...]


@dataclass(frozen=True)
class Cut:
    """One way of cutting a stage into shards."""

    stage: Stage
    """Its settings with what was measured."""
    shards: tuple[Shard, ...]
    shard_keys: tuple[str, ...]
    key: str
    manifest: Manifest | None
    pinned: Measured | None


@dataclass(frozen=True)
class Draft:
    """A stage that has yet to be cut."""

    stage: Stage
    task: AnyTask
    seed: int
    inputs: Mapping[str, str]
    facts: Facts
    store: Store
    renewed: bool
    """What was made before does not count."""
    without: Collection[str] = ()
    """Keys of shards to be left out."""

    def settled(self, choices: Choices | None, device: str) -> tuple[Cut, Open | None]:
        """The stage with what was measured before, and what is still open.

        Whatever made an artifact that is already there stands, on any device. Else what was measured on
        this kind of device; and where that is nothing, the first choice for the time being.
        """
        plain = self._cut(None)
        if choices is None or plain.manifest:
            return plain, None
        key = choice_key(self.stage.options.task, self.task.version, choices)
        cuts = {kind: self._cut(found) for kind, found in measured(self.store.bytes, key).items()}
        published = [cut for cut in cuts.values() if cut.manifest]
        if published:
            return published[0], None
        if device in cuts:
            return cuts[device], None
        return plain, Open(key, device, tuple(choices.settings))

    def _cut(self, found: Measured | None) -> Cut:
        config = self.stage.config.model_copy(update=found.settings) if found else self.stage.config
        name, version = self.stage.options.task, self.task.version
        every = tuple(self.task.shards(config, self.facts))
        named = zip(shard_keys(name, version, self.seed, config, self.inputs, every), every, strict=True)
        known = [(key, shard) for key, shard in named if key not in self.without]
        keys, shards = tuple(key for key, _ in known), tuple(shard for _, shard in known)
        assert len(set(keys)) == len(keys) > 0, f"{name}: shards without work or with equal identities"
        key = stage_key(name, version, config, self.inputs, keys)
        manifest = None if self.renewed else self.store.manifest(key)
        return Cut(replace(self.stage, config=config), shards, keys, key, manifest, found)
