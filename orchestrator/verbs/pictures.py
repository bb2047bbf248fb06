"""The last picture of each kind that a run made, as files that a person can open."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.plan import Plan, StagePlan
from orchestrator.store import Store

_MOST_SHARDS = 20


def save_pictures(made: Plan, store: Store, folder: Path) -> int:
    """Writes `stage-name.png` files (with the shard, where a stage has several); returns how many."""
    count = 0
    for stage in made.stages:
        for name, blob in _last_ones(stage, store).items():
            folder.mkdir(parents=True, exist_ok=True)
            stage_name = stage.name.replace("[", ".").replace("]", "")
            file = re.sub(r"[^A-Za-z0-9_.=-]+", "_", f"{stage_name}-{name}")
            (folder / f"{file}.png").write_bytes(store.read_blob(blob))
            count += 1
    return count


def _last_ones(stage: StagePlan, store: Store) -> dict[str, str]:
    """Name of a picture to the digest of its latest version."""
    latest: dict[str, dict[str, Any]] = {}
    for name, picture in _pictures(stage, store):
        if name not in latest or picture["step"] >= latest[name]["step"]:
            latest[name] = picture
    return {name: picture["blob"] for name, picture in latest.items()}


def _pictures(stage: StagePlan, store: Store) -> Iterator[tuple[str, dict[str, Any]]]:
    manifest = store.manifest(stage.key)
    if manifest is None:
        return
    for picture in manifest.previews:
        yield picture["name"], picture
    for shard in manifest.shards if len(manifest.shards) <= _MOST_SHARDS else []:
        label = f"-{shard.name}" if len(manifest.shards) > 1 else ""
        for picture in store.shard(shard.key).record.previews:
            yield picture["name"] + label, picture
