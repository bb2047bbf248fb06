"""Tokens a second and peak memory of a student's training: distill_lm beside TRL's GKD trainer.

SmolLM2-135M-Instruct teaches a student with 6 of its 30 layers on Tiny Shakespeare, JSD with beta 0.5, AdamW, the same
sequences in the same batches, float32 on a CPU and bfloat16 on a GPU. Prints a table and, last, one line of JSON:
{"tokens_per_s": {...}, "ratio_to_trl": ...}, the ratio being that of cached labels. Models and text lie in the data
folder:

    pip install trl datasets
    .venv/bin/python benchmarks/lm_throughput.py

Each way has a process of its own and runs its own whole loop: ours the task itself on one rank, with the labels of
token_labels (k = 128, made before; their time is told) or with the teacher beside it; TRL's trainer with lmbda = 0, so
that nobody writes, and without the template and tokenising of its data: it is given our token ids. A step ends where
the next one begins; the first ones are left out, and the median of the others counts. Memory is the most that the
process ever held, and on a GPU the most that torch held there.

The bound counts operations: 6 a weight and token for the student, head included, and 2 for a teacher that reads along,
at the speed of a large matrix product measured just before.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from orchestrator.store import Store
from orchestrator.task import Json, Progress, derive_seed
from tasks.llm_distillation.distill_lm import DistillLm
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.models.student_model import (
    Student,
    initial_student,
    parameter_count,
    student_config,
)
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.sequences import sequences
from tasks.llm_distillation.token_labels import LabelTokens

WAYS = ("cached", "online", "trl")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NARROW = DEVICE == "cuda"
LEFT_OUT = 2
"""First steps, which warm up."""
LR = 1e-4
TEXT = "shakespeare.txt.gz"


@dataclass(frozen=True)
class Case:
    """What is trained, and how long."""

    teacher: str
    layers: int
    length: int
    batch: int
    steps: int

    @property
    def model(self) -> LanguageModel:
        return LanguageModel(name=self.teacher, dtype="bf16" if NARROW else "fp32")

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.length * self.batch

    @property
    def corpus(self) -> dict[str, Json]:
        """The beginning of the text, with enough sequences for every step, in one piece, so that none is filled up."""
        whole = {"path": TEXT, "pack": False}
        count = len(sequences(Corpus(**whole), self.model.tokenizer(), self.length))
        share = min(1.0, 1.2 * self.batch * (self.steps + LEFT_OUT) / count)
        return {**whole, "split": (0.0, share)}

    @property
    def settings(self) -> dict[str, Json]:
        """Of distill_lm."""
        return {
            "teacher": self.model, "student": {"layers": self.layers}, "corpus": self.corpus,
            "objective": {"name": "jsd", "beta": 0.5}, "length": self.length, "batch": self.batch,
            "steps": self.steps + LEFT_OUT, "lr": LR, "schedule": "constant",
            "precision": "bf16" if NARROW else "fp32", "zero": {"stage": 1},
        }  # fmt: skip


@dataclass
class Watch:
    """Fulfils orchestrator.task.Context; keeps the time of every step."""

    device: str = DEVICE
    rank: int = 0
    world_size: int = 1
    times: list[float] = field(default_factory=list)

    def seed(self, *path: str | int, item: Mapping[str, Json] | None = None) -> int:
        return derive_seed(0, "throughput", *path)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.tick()

    def tick(self) -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def preview(self, name: str, png: bytes, step: int = 0) -> None:
        raise AssertionError("nothing is shown here")

    def save_progress(self, make: Callable[[], Progress]) -> None:
        """Not measured here."""

    def load_progress(self) -> None:
        return None

    @property
    def step_s(self) -> float:
        steps = [late - early for early, late in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(steps[LEFT_OUT - 1 :])


@dataclass(frozen=True)
class Labels:
    """As much of an artifact as is read of labels."""

    facts: Mapping[str, Json]
    shards: list[Any]
    kind: str = LabelTokens.makes
    id: str = "labels"


def keep_labels(case: Case, folder: Path) -> float:
    """Writes the labels of the whole corpus; the tokens a second that it took."""
    store, task = Store.open(str(folder)), LabelTokens
    config = task.Config(teacher=case.model, corpus=case.corpus, length=case.length, batch_size=case.batch)
    facts = task.describe(config, {})
    worker, shards, started = task(config, {}, facts, Watch()), [], time.perf_counter()
    for number, shard in enumerate(task.shards(config, facts)):
        store.commit_shard(key(number), dict(shard.identity), shard.label, worker.compute(shard, Watch()))
        shards.append(store.shard(key(number)))
    took = time.perf_counter() - started
    closing = task.close(config, {}, facts, shards, Watch())
    (folder / "facts.json").write_text(json.dumps({**facts, **closing.facts, "shards": len(shards)}))
    return facts["sequences"] * case.length / took


def read_labels(folder: Path) -> Labels:
    store, facts = Store.open(str(folder)), json.loads((folder / "facts.json").read_text())
    return Labels(facts, [store.shard(key(number)) for number in range(facts["shards"])])


def key(number: int) -> str:
    return f"{number:032x}"


def ours(case: Case, labels: Labels | None) -> Watch:
    """A run of the task itself."""
    watch, task = Watch(), DistillLm
    inputs = {} if labels is None else {"labels": labels}
    config = task.Config(**case.settings, **dict.fromkeys(inputs, "labels"))
    facts = task.describe(config, {name: made.facts for name, made in inputs.items()})
    (shard,) = task.shards(config, facts)
    task(config, inputs, facts, watch).compute(shard, watch)
    return watch


def trl(case: Case) -> Watch:
    """TRL's trainer on the same sequences."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    try:
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl.experimental.gkd import GKDConfig, GKDTrainer
    except ImportError as error:
        raise SystemExit(f"{error}; this benchmark compares with TRL: pip install trl datasets") from error

    watch, tokenizer = Watch(), case.model.tokenizer()
    found = sequences(Corpus(**case.corpus), tokenizer, case.length)

    class Timed(TrainerCallback):
        def on_step_end(self, *told: Any, **more: Any) -> None:
            watch.tick()

    def together(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        ids = torch.stack([torch.tensor(found.ids[row["row"]]).long() for row in rows])
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": ids,
            "prompts": ids[:, :1],
        }

    with TemporaryDirectory() as folder:
        settings = GKDConfig(
            output_dir=folder, max_steps=case.steps + LEFT_OUT, per_device_train_batch_size=case.batch,
            learning_rate=LR, lr_scheduler_type="constant", lmbda=0.0, beta=0.5, bf16=NARROW, use_cpu=not NARROW,
            activation_checkpointing=False, report_to=[], save_strategy="no", logging_steps=10**6, disable_tqdm=True,
            remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, disable_dropout=True,
        )  # fmt: skip
        student = initial_student(
            Student(layers=case.layers), case.model.config(), lambda: case.model.load("cpu"), 0
        )
        student = student.to(torch.bfloat16 if NARROW else torch.float32)
        GKDTrainer(
            model=student, teacher_model=case.model.load(DEVICE), args=settings,
            data_collator=together, train_dataset=Dataset.from_dict({"row": list(range(len(found)))}),
            processing_class=tokenizer, callbacks=[Timed()],
        ).train()  # fmt: skip
    return watch


def measured(case: Case, way: str, folder: Path) -> dict[str, float]:
    """In this process: seconds of a step, and peak memory in GB."""
    torch.set_num_threads(os.cpu_count() or 1)
    if way == "labels":
        return {"tokens_per_s": keep_labels(case, folder)}
    watch = trl(case) if way == "trl" else ours(case, read_labels(folder) if way == "cached" else None)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if DEVICE == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {"step_s": watch.step_s, "peak_gb": peak / 1e9}


def in_its_own_process(case: Case, way: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--case", json.dumps(vars(case)), "--folder", folder]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if said.returncode:
        raise SystemExit(said.returncode)
    return json.loads(said.stdout.splitlines()[-1])


def operations(case: Case) -> dict[str, float]:
    """A token, by way."""
    config = case.model.config()
    student = 6 * parameter_count(student_config(Student(layers=case.layers), config))
    teacher = 2 * parameter_count(config)
    return {"cached": student, "online": student + teacher, "trl": student + teacher}


def speed(seconds: float = 2.0) -> float:
    """Operations a second of a large matrix product."""
    torch.set_num_threads(os.cpu_count() or 1)
    kind, size = (torch.bfloat16, 8192) if NARROW else (torch.float32, 2048)
    one, other = torch.ones(2, size, size, dtype=kind, device=DEVICE)
    count, ends = 0, time.perf_counter() + seconds
    started = time.perf_counter()
    while time.perf_counter() < ends:
        (one @ other)[0, 0].item()
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="smollm2_135m_instruct")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--length", type=int, default=1024 if NARROW else 256)
    parser.add_argument("--batch", type=int, default=16 if NARROW else 4)
    parser.add_argument("--steps", type=int, default=20 if NARROW else 5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(measured(Case(**json.loads(asked.case)), asked.way, Path(asked.folder))))
        return
    case = Case(asked.teacher, asked.layers, asked.length, asked.batch, asked.steps)
    rate = speed()
    with TemporaryDirectory() as folder:
        if "cached" in asked.ways:
            made = in_its_own_process(case, "labels", folder)
            print(f"labels, once: {made['tokens_per_s']:.0f} tokens a second")
        found = {way: in_its_own_process(case, way, folder) for way in asked.ways}
    report(case, rate, found)


def report(case: Case, rate: float, found: Mapping[str, Mapping[str, float]]) -> None:
    pace, counted = {way: case.tokens / told["step_s"] for way, told in found.items()}, operations(case)
    print(f"{case}, {DEVICE}, {rate / 1e9:.0f} billion operations a second")
    print("way     tokens/s   bound   share of it   peak memory")
    for way, told in found.items():
        bound = rate / counted[way]
        print(f"{way:6} {pace[way]:9.0f} {bound:7.0f} {pace[way] / bound:13.2f} {told['peak_gb']:10.2f} GB")
    summary: dict[str, Json] = {
        "tokens_per_s": pace,
        "peak_gb": {way: told["peak_gb"] for way, told in found.items()},
    }
    if {"cached", "trl"} <= pace.keys():
        summary["ratio_to_trl"] = pace["cached"] / pace["trl"]
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
