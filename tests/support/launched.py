"""A bench whose experiment is launched on nodes with addresses of their own, by `limbeck launch`."""

import json
import sys
from pathlib import Path

from engine import Bench
from raynodes import RayNodes

STARTED_S = 240
"""For a launch to have come to its first shard, on a busy machine."""


class Launched(Bench):
    """Sees the same store as the nodes do."""

    def __init__(self, folder: Path, nodes: RayNodes) -> None:
        super().__init__(folder)
        self.profile = folder / "there.yaml"
        self.profile.write_text(
            f"kind: existing\naddress: {nodes.url}\ntoken_file: {nodes.token_file}\npython: {sys.executable}\n"
            f"store: {self.store}\nwait_s: 200\nexclude: [marks, home]\n"
            "resources: {nodes: 3, cpus: 1, memory_gb: 2}\n"
        )

    def launch(self, *overrides: str) -> str:
        """Our id of the job."""
        argv = ("launch", self.experiment.name, *overrides, "--cluster", str(self.profile), "--json")
        return self.limbeck(*argv).json["job"]

    def followed(self, job: str, timeout: float = 280) -> str:
        """Its output, once it has ended."""
        return self.limbeck("logs", job, "-f", timeout=timeout).out

    def phase(self, job: str) -> str:
        return self.limbeck("status", job, "--json").json["phase"]

    def hosts(self) -> set[str]:
        """Nodes that committed shards."""
        records = [json.loads(path.read_text()) for path in self.store.glob("shards/*/*.json")]
        return {record["provenance"]["host"] for record in records}

    def at_gate(self) -> set[str]:
        """Nodes that have come to one."""
        return {mark.name.rpartition("-")[2] for mark in self.marks_folder.glob("trouble-*")}

    def open_gates(self) -> None:
        (self.marks_folder / "go").touch()
