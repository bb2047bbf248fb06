"""The engine: plans, runs, stores and tracks experiments. `orchestrator.load(id)` opens an artifact."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.task import Artifact

__all__ = ["load"]


def load(name: str, store: str | None = None) -> "Artifact":
    """Opens an artifact by id (or its start), stage, or `experiment/stage`.

    `store`: folder or URI (s3://bucket/prefix) of the store; default `LIMBECK_STORE`, else `limbeck-store`
    here. Gives tensors and tables: `load("digits/distilled").shards[0].tensors("synthetic")`. UserError where
    there is none.
    """
    import os

    from orchestrator.store import Store

    opened = Store.open(store or os.environ.get("LIMBECK_STORE", "limbeck-store"), create=False)
    return opened.artifact(opened.resolve(name))
