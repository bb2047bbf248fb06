"""One node of a Slurm job: its part of one Ray over all of them, and on the first node the run. srun starts it.

    srun ... PYTHON -m clusters.allocation --folder FOLDER --nodes N ... -- COMMAND ...

The first node says in FOLDER, which all nodes see, where its Ray is and at last how the command ended. The others
join it, and leave when it has ended. Each node ends its own Ray: `ray stop`, which `ray symmetric-run` calls, would
end every Ray that the user has on a node, and nodes may be shared.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clusters.attached import ADDRESS
from clusters.local import NO_METRICS
from clusters.ray_node import free_port, ip_of, ray_node
from clusters.supervisor import OUT_OF_TIME, Supervisor
from orchestrator.errors import LimbeckError, last_line

TOKEN, STOP, WORD = "token", "stop", "word.json"
"""In the job's folder: Ray's token; a mark that the user asked for the end, not the clock; see `Word`."""
END_SIGNAL = signal.SIGURG
"""Asks for the end in order. Some Slurms send a signal to every process of a step: only we hear this one."""

_LOOK_S = 0.5


@dataclass(frozen=True)
class Word:
    """What the first node has said, to the others and to `limbeck status`."""

    attempt: int
    """Slurm's count of the job's restarts: a word of an earlier start may still be there."""
    address: str
    """Of Ray."""
    code: int | None = None
    """Exit code of the command, once it has ended."""


def read_word(folder: Path) -> Word | None:
    """None where nothing has been said yet."""
    try:
        return Word(**json.loads((folder / WORD).read_text()))
    except FileNotFoundError:
        return None


def say(folder: Path, word: Word) -> None:
    """For others to read: whole or not at all."""
    draft = folder / f"{WORD}.draft"
    draft.write_text(json.dumps(asdict(word)))
    draft.replace(folder / WORD)


class Node:
    """This node, as srun has started it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, Path(given.folder)
        self.rank, self.job = int(os.environ["SLURM_PROCID"]), os.environ["SLURM_JOB_ID"]
        self.attempt = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self._has = (f"--num-cpus={given.cpus}", f"--num-gpus={given.gpus}", f"--memory={given.memory}")

    def lead(self) -> int:
        """Ray's head, and the command under care. Returns the command's exit code."""
        given, host = self.given, self._host()
        port = free_port()
        address = f"{host}:{port}"
        joined = ("clusters.joined", address, str(given.nodes), str(given.join_s))
        care = Supervisor((sys.executable, "-m", *joined, *given.command), given.retries)
        self._hear(care)
        head = (
            "--head",
            f"--node-ip-address={host}",
            f"--port={port}",
            "--include-dashboard=false",
            "--disable-usage-stats",
        )
        code = 1
        try:
            with ray_node((*head, *self._has), given.scratch, given.join_s, lambda: care.over):
                say(self.folder, Word(self.attempt, address))
                os.environ[ADDRESS] = address
                code = care.run()
        finally:
            say(self.folder, Word(self.attempt, address, code))
        if code == OUT_OF_TIME and self.attempt < given.requeues:
            self._requeue()
        return code if code >= 0 else 128 - code

    def follow(self) -> int:
        """A further node of Ray, until the command has ended. A stop is the first node's to hear."""
        for number in (signal.SIGINT, signal.SIGTERM, END_SIGNAL):
            signal.signal(number, lambda *_: None)
        deadline = time.monotonic() + self.given.join_s
        while (word := self._word()) is None:
            if time.monotonic() > deadline:
                raise LimbeckError(f"the first node named no Ray within {self.given.join_s} s")
            time.sleep(_LOOK_S)
        if self._over():
            return 0
        own = [] if self.given.interface is None else [f"--node-ip-address={ip_of(self.given.interface)}"]
        options = (f"--address={word.address}", *own, *self._has)
        with ray_node(options, self.given.scratch, self.given.join_s, self._over) as ray:
            while ray.alive and not self._over():
                time.sleep(_LOOK_S)
        return 0

    def _over(self) -> bool:
        """Whether the first node's command has ended."""
        return (word := self._word()) is None or word.code is not None

    def _host(self) -> str:
        if self.given.interface is not None:
            return ip_of(self.given.interface)
        return "127.0.0.1" if self.given.nodes == 1 else os.environ["SLURM_LAUNCH_NODE_IPADDR"]

    def _word(self) -> Word | None:
        word = read_word(self.folder)
        return word if word is not None and word.attempt == self.attempt else None

    def _hear(self, care: Supervisor) -> None:
        mark = self.folder / STOP
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, care.stop)
        signal.signal(END_SIGNAL, lambda *_: care.stop() if mark.exists() else care.expire())
        if mark.exists():  # asked for before there was anyone to hear it
            care.stop()

    def _requeue(self) -> None:
        """Slurm ends what is left of the job, and queues it again."""
        _tell("the time is over: the job goes back into the queue, and on from what is stored")
        done = subprocess.run(["scontrol", "requeue", self.job], capture_output=True, text=True)
        if done.returncode != 0:
            _tell(f"scontrol requeue {self.job}: {last_line(done.stderr)}")


def _tell(text: str) -> None:
    sys.stderr.write(f"limbeck: job: {text}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser("clusters.allocation")
    for name in ("nodes", "cpus", "gpus", "memory", "join-s"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("retries", "requeues"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--scratch", default=tempfile.gettempdir())
    parser.add_argument("--interface")
    parser.add_argument("command", nargs="+")
    node = Node(parser.parse_args(argv))
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(node.folder / TOKEN), **NO_METRICS}
    try:
        return node.lead() if node.rank == 0 else node.follow()
    except LimbeckError as error:
        _tell(f"{socket.gethostname()}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
