"""vLLM's process, seen from ours: how it is started, spoken to and ended. Its own side is vllm_process."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from tasks.llm_distillation.writing import vllm_process

PYTHON = "LIMBECK_VLLM_PYTHON"
_OF_THE_GANG = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def vllm_python() -> str:
    """The Python that has vLLM: the one named in LIMBECK_VLLM_PYTHON, else ours. ValueError where neither has."""
    named = os.environ.get(PYTHON)
    if named:
        if not os.access(named, os.X_OK):
            raise ValueError(
                f"{PYTHON}={named}: is no program; expected the Python of an environment with vLLM"
            )
        return named
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "sampling.engine: vLLM is not installed here; install it in an environment of its own and name its "
            f"Python in {PYTHON}, on every node, or write by `engine: transformers`"
        )
    return sys.executable


class VllmProcess:
    """vLLM with one architecture; its weights are what was sent last. Ends with this object, or with this process."""

    def __init__(
        self, python: str, device: str, settings: Mapping[str, Any], config: Mapping[str, Any]
    ) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="limbeck-vllm-")
        folder = Path(self._place.name)
        (folder / "config.json").write_text(json.dumps(config))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, vllm_process.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=_environment(device),
            )  # fmt: skip
        self.end = weakref.finalize(self, _end, self._process, self._place)
        self.version: str = self.ask({"model": str(folder), **settings})["version"]

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer. Where the process ended instead: MemoryError if it was killed, else RuntimeError with the last
        that it said."""
        return self._ask(json.dumps(asked).encode() + b"\n", ())

    def send_weights(self, weights: Mapping[str, Tensor]) -> None:
        """One after the other, each through the CPU."""
        told = [(name, str(of.dtype).removeprefix("torch."), list(of.shape)) for name, of in weights.items()]
        self._ask(json.dumps({"weights": told}).encode() + b"\n", weights.values())

    def _ask(self, line: bytes, tensors: Iterable[Tensor]) -> dict[str, Any]:
        pipe, answers = _opened(self._process.stdin), _opened(self._process.stdout)
        try:
            pipe.write(line)
            for tensor in tensors:
                pipe.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            pipe.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise self._ended()
        told: dict[str, Any] = json.loads(answer)
        return told

    def _ended(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return MemoryError("vLLM's process was killed, as is done where memory runs out")
        said = self._log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        return RuntimeError(f"vLLM ended with code {code}: {said or 'it said nothing'}")


def _opened(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _end(process: subprocess.Popen[bytes], place: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.communicate()
    place.cleanup()


def _environment(device: str) -> dict[str, str]:
    """Ours, without the gang that we may be a rank of; nothing is fetched, nothing reported to anyone."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_GANG}
    own = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONSAFEPATH": "1",
    }  # fmt: skip
    if device.startswith("cuda"):
        visible = kept.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = torch.device(device).index or 0
        own["CUDA_VISIBLE_DEVICES"] = visible[number] if number < len(visible) and visible[0] else str(number)
    return kept | own
