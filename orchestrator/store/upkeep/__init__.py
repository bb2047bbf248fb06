"""Looking after a store: is it intact, what came from what, take a copy, drop what nobody needs."""

from orchestrator.store.upkeep.ancestry import lineage
from orchestrator.store.upkeep.checks import Problem, Verification, verify
from orchestrator.store.upkeep.collection import GRACE_S, Collection, collect
from orchestrator.store.upkeep.copies import export

__all__ = ["GRACE_S", "Collection", "Problem", "Verification", "collect", "export", "lineage", "verify"]
