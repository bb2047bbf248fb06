"""A process in which vLLM writes: what it is asked comes in on its standard input, what it says leaves on its
standard output.

Run as a script by the Python of an environment that has vLLM, which need not have anything else of ours; so it
imports nothing of ours. One line of JSON a request and an answer. The first request is the settings of the engine,
answered with its version once it stands; after `{"weights": [[name, dtype, shape], ...]}` come the bytes of these
tensors; `{"prompts": ..., "seeds": ..., "sampling": ...}` asks for tokens. The process ends when its input does.
"""

import json
import math
import os
import select
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch


def main() -> None:
    """Serves until the other end closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not get between the answers
    threading.Thread(target=_end_with_the_other, daemon=True).start()
    requests = sys.stdin.buffer
    engine: Any = None
    while line := requests.readline():
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        if engine is None:
            engine, answer["version"] = _engine(asked)
        elif "weights" in asked:
            engine.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": _weights(asked["weights"], requests)}
            )
        else:
            answer["written"] = _written(engine, **asked)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _end_with_the_other() -> None:
    """A batch may take minutes: who asked for it may be gone before it is done."""
    gone = select.poll()
    gone.register(0, 0)  # nothing but hang-ups, which are always told
    gone.poll()
    os._exit(0)


def _engine(settings: dict[str, Any]) -> tuple[Any, str]:
    """With weights of no meaning, which are to come, and its version. On a GPU it takes what is free at most."""
    from vllm import LLM, __version__  # type: ignore[import-not-found]

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        settings["gpu_memory_utilization"] = 0.95 * free / total
    engine = LLM(
        **settings, load_format="dummy", skip_tokenizer_init=True, generation_config="vllm", seed=0,
        disable_log_stats=True, enable_prefix_caching=False,
    )  # fmt: skip
    return engine, __version__


def _weights(
    told: list[tuple[str, str, list[int]]], requests: BinaryIO
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, dtype, shape in told:
        kind = getattr(torch, dtype)
        data = bytearray(math.prod(shape) * kind.itemsize)
        if requests.readinto(data) < len(data):  # type: ignore[attr-defined]
            raise EOFError(f"weight {name}: its bytes end early")
        yield name, torch.frombuffer(data, dtype=kind).view(shape)


def _written(
    engine: Any, prompts: list[list[int]], seeds: list[int], sampling: dict[str, Any]
) -> list[list[int]]:
    from vllm import SamplingParams

    settings = [SamplingParams(**sampling, seed=seed, ignore_eos=True, detokenize=False) for seed in seeds]
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    return [list(told.outputs[0].token_ids) for told in engine.generate(asked, settings, use_tqdm=False)]


if __name__ == "__main__":
    main()
