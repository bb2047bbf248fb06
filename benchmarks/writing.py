"""Tokens a second that a model writes: by vLLM in a process of its own, and by the model as it is loaded.

Both write to the same prompts of the same weights with the same seeds. Prints a table and, last, one line of JSON.
Needs vLLM beside us or LIMBECK_VLLM_PYTHON, and the data folder or a model's folder of your own:

    .venv/bin/python benchmarks/writing.py [--model MODEL] [--corpus FILE] [--prompts N] [--tokens N] [--batch N ...]

`load_s` is the time until the first weights were there, vLLM's start included, and `reload_s` what sending them once
more took, which happens before each text that a student writes while it learns.
"""

import argparse
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.writing.answering import prompt_rows, prompts_of
from tasks.llm_distillation.writing.engines import Engine, Writer, engine_for
from tasks.llm_distillation.writing.generation import EngineName, Sampling
from tasks.llm_distillation.writing.vllm_client import vllm_python

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENGINES: tuple[EngineName, ...] = ("transformers", "vllm")
LENGTH = 256


def pace(write: Writer, prompts: list[list[int]], batch: int, sampling: Sampling) -> float:
    """Tokens a second."""
    begun, tokens = time.perf_counter(), 0
    for first in range(0, len(prompts), batch):
        own = prompts[first : first + batch]
        tokens += sum(map(len, write(own, range(first, first + len(own)), sampling)))
    return tokens / (time.perf_counter() - begun)


def asked(arguments: argparse.Namespace, model: LanguageModel) -> list[list[int]]:
    """The tokens of the first prompts of the corpus."""
    corpus = Corpus(path=arguments.corpus, prompt="question", response="answer")
    examples = corpus.examples()
    rows = prompt_rows(examples, answered=False)[: arguments.prompts]
    return list(prompts_of(examples, rows, model.tokenizer(), corpus, LENGTH).values())


def ready(engine: Engine, model: "PreTrainedModel") -> tuple[Writer, float]:
    """A writer, and the seconds until it was there."""
    begun = time.perf_counter()
    return engine.writer(model), time.perf_counter() - begun


def compare(
    arguments: argparse.Namespace,
    loaded: "PreTrainedModel",
    vocabulary: int,
    prompts: list[list[int]],
    batch: int,
) -> dict[str, Any]:
    """Each engine in turn, `--repeats` times, after a warm-up."""
    sampling = Sampling(new_tokens=arguments.tokens)
    plain, vllm = (
        engine_for(
            name, vocabulary=vocabulary, end=None, length=LENGTH + arguments.tokens, batch=batch,
            device=arguments.device,
        )
        for name in ENGINES
    )  # fmt: skip
    (_, load_s), (written_by_vllm, reload_s) = ready(vllm, loaded), ready(vllm, loaded)
    writers = dict(zip(ENGINES, (plain.writer(loaded), written_by_vllm), strict=True))
    paces: dict[str, list[float]] = {name: [] for name in ENGINES}
    for turn in range(arguments.repeats + 1):
        for name, writer in writers.items():
            paces[name] += [pace(writer, prompts, batch, sampling)] * (turn > 0)
    ratios = [one / other for one, other in zip(paces["vllm"], paces["transformers"], strict=True)]
    return {
        "batch": batch, "tokens_per_s": {name: statistics.median(found) for name, found in paces.items()},
        "ratio": statistics.median(ratios), "load_s": load_s, "reload_s": reload_s,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2_135m_instruct")
    parser.add_argument("--corpus", default="gsm8k/test.jsonl.gz")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    try:
        vllm_python()
    except ValueError as error:
        sys.exit(str(error))
    model, rows = LanguageModel(name=arguments.model), []
    loaded, prompts = model.load(arguments.device), asked(arguments, model)
    for batch in arguments.batch:
        rows.append(compare(arguments, loaded, model.vocabulary, prompts, batch))
        told = rows[-1]["tokens_per_s"]
        print(
            f"batch {batch:4d} | transformers {told['transformers']:8.1f} | vllm {told['vllm']:8.1f} | "
            f"ratio {rows[-1]['ratio']:5.2f} | load {rows[-1]['load_s']:5.1f} s | again {rows[-1]['reload_s']:5.2f} s",
            flush=True,
        )
    print(json.dumps({"rows": rows, "ratio": rows[-1]["ratio"]}))


if __name__ == "__main__":
    main()
