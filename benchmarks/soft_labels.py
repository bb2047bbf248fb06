"""What it costs to keep a teacher's labels, and to read them: torch alone, not Ray.

    python benchmarks/soft_labels.py

throughput_ratio    images a second of a shard of soft_labels over those of the bare teacher, which is shown the images
                    as they are and whose answers are thrown away. A shard draws views (crop and flip), asks the
                    teacher, measures what the labels lose, and writes them into a store.
reader_ratio        time of a student's step on batches from the reader over that on batches that lie ready in memory,
                    views, labels and all. The reader shuffles, replays the views and gathers rows from the files.
                    Both sides make the same steps with the same batches, the last of an epoch; the time of the reader
                    begins before it has shuffled, and it starts anew each round.
reader_cpu_ms       processor time of the reader for one batch, alone: of all threads, shuffling and all.

The teacher is the public ResNet-56 of CIFAR-10, the student a ResNet-20. The sides take turns; a ratio is the median
of those of the rounds, after one that does not count. `--small` does the same in a moment, on digits.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from orchestrator.store import Store
from orchestrator.task import Json, Output, Progress, derive_seed
from tasks.model_distillation.label_codec import encode
from tasks.model_distillation.label_files import KeptLabels, to_table
from tasks.model_distillation.label_reader import LabelledBatch, LabelReader
from tasks.model_distillation.soft_labels import SoftLabelConfig, SoftLabels
from tasks.nets import Classifier, build_classifier

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Case:
    """What is labelled by whom, and for how long it is timed."""

    dataset: str
    teacher: Mapping[str, Json]
    student: Classifier
    teacher_batch: int
    batches: int
    """Of the teacher in a round."""
    student_batch: int
    steps: int
    """Of the student in a round."""
    rounds: int


class Context:
    """What a shard needs of its worker; nothing is saved on the way."""

    device = DEVICE

    def seed(self, *path: str | int, item: Mapping[str, Json] | None = None) -> int:
        return derive_seed(0, *path)

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...
    def preview(self, name: str, png: bytes, step: int = 0) -> None: ...
    def save_progress(self, make: Callable[[], Progress]) -> None: ...
    def load_progress(self) -> Progress | None:
        return None


class Bench:
    """A teacher that labels, a store that takes the labels, and a student that reads them."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.store, self.context = case, Store.open(str(folder / "store")), Context()
        self.config = SoftLabelConfig.model_validate(
            {
                "dataset": case.dataset,
                "teacher": case.teacher,
                "views": {"padding": 2, "flip": True},
                "views_per_shard": case.teacher_batch * case.batches,
                "batch_size": case.teacher_batch,
                "epochs": 100,
            }
        )
        self.facts = SoftLabels.describe(self.config, {})
        self.shards = SoftLabels.shards(self.config, self.facts)
        self.task = SoftLabels(self.config, {}, self.facts, self.context)
        channels, height, width = self.facts["shape"]
        student = build_classifier(case.student, (channels, height, width), self.facts["classes"], 0)
        self.student = student.to(DEVICE)
        self.optimizer = torch.optim.SGD(self.student.parameters(), 0.01, momentum=0.9)

    def bare(self) -> float:
        """Images a second of the teacher alone."""
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in islice(self.task.images.split(self.case.teacher_batch), self.case.batches):
                answers = self.task.teacher(batch.float() / 255)
        answers.sum().item()
        return self.case.teacher_batch * self.case.batches / (time.perf_counter() - started)

    def cached(self, number: int) -> float:
        """Images a second of a shard, from the first view to the record in the store."""
        shard = self.shards[number]
        started = time.perf_counter()
        output = self.task.compute(shard, self.context)
        self.store.commit_shard(self.key(number), shard.identity, shard.label, output)
        return self.case.teacher_batch * self.case.batches / (time.perf_counter() - started)

    def fill(self, number: int) -> None:
        """A shard of labels that no teacher gave: a reader takes as long over them."""
        shard = self.shards[number]
        rows = shard.identity["last"] + 1 - shard.identity["first"]
        table = to_table(encode(self.config.labels, torch.randn(rows, self.facts["classes"])))
        self.store.commit_shard(
            self.key(number), shard.identity, shard.label, Output(mapped={"labels": table})
        )

    def key(self, number: int) -> str:
        return f"{number:032x}"

    def reader(self, epoch_shards: int) -> LabelReader:
        """Of the first epoch, which lies in so many shards."""
        made = [self.store.shard(self.key(number)) for number in range(epoch_shards)]
        facts = {**self.facts, "epochs": 1, "view_seed": self.context.seed("views")}
        kept = KeptLabels(facts, made, frozenset(), None)
        return LabelReader.open(kept, self.config.dataset, self.case.student_batch, seed=0)

    def learn(self, batches: Iterable[LabelledBatch]) -> float:
        """Seconds a step of the student."""
        started, steps = time.perf_counter(), 0
        for batch in batches:
            on_device = batch.to(DEVICE)
            logits = self.student(on_device.images - 0.5)
            loss = functional.kl_div(
                functional.log_softmax(logits, 1),
                functional.softmax(on_device.logits, 1),
                reduction="batchmean",
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            steps += 1
        loss.item()
        return (time.perf_counter() - started) / steps


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """All sides in turn, `case.rounds` times, after one round that does not count."""
    bench = Bench(case, folder)
    samples, size = bench.facts["samples"], case.teacher_batch * case.batches
    per_epoch = -(-samples // size)
    bare, cached = [], []
    for number in range(case.rounds + 1):
        bare.append(bench.bare())
        cached.append(bench.cached(number))
    for number in range(case.rounds + 1, per_epoch):
        bench.fill(number)
    reader = bench.reader(per_epoch)
    first = reader.steps(0) - case.steps
    ready = list(reader.epoch(0, first))
    memory, read, spent = [], [], []
    for _ in range(case.rounds + 1):
        memory.append(bench.learn(ready))
        read.append(bench.learn(reader.epoch(0, first)))
        spent.append(processor_time(reader.epoch(0, first)))
    return {
        "throughput_ratio": round(ratio(cached, bare), 3),
        "reader_ratio": round(ratio(read, memory), 3),
        "bare_images_per_s": round(statistics.median(bare[1:]), 1),
        "cached_images_per_s": round(statistics.median(cached[1:]), 1),
        "step_ms_in_memory": round(1000 * statistics.median(memory[1:]), 2),
        "step_ms_read": round(1000 * statistics.median(read[1:]), 2),
        "reader_cpu_ms": round(1000 * statistics.median(spent[1:]), 2),
    }


def processor_time(batches: Iterable[LabelledBatch]) -> float:
    """Seconds a batch of the processors, of all threads, while nobody learns."""
    started = time.process_time()
    number = sum(1 for _ in batches)
    return (time.process_time() - started) / number


def ratio(first: list[float], second: list[float]) -> float:
    """Median over the rounds that count."""
    return statistics.median(one / other for one, other in zip(first[1:], second[1:], strict=True))


def full() -> Case:
    """CIFAR-10, in the folder of the datasets."""
    pixels = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    file = "cifar_resnets/resnet56_cifar10.safetensors"
    teacher = {"checkpoint": file, "classifier": "cifar_resnet56", **pixels}
    large = DEVICE == "cuda"
    return Case(
        dataset="cifar10", teacher=teacher, student=Classifier(name="cifar_resnet20"),
        teacher_batch=1000 if large else 250, batches=50 if large else 2,
        student_batch=128, steps=300 if large else 12, rounds=7,
    )  # fmt: skip


def small(folder: Path) -> Case:
    """Digits, and a teacher that knows nothing."""
    network: nn.Module = build_classifier(Classifier(name="cifar_resnet8"), (1, 8, 8), 10, 0)
    save_file(network.state_dict(), folder / "teacher.safetensors")
    teacher = {"checkpoint": str(folder / "teacher.safetensors"), "classifier": "cifar_resnet8"}
    return Case(
        dataset="digits", teacher={**teacher, "mean": (0.3,), "std": (0.4,)},
        student=Classifier(name="cifar_resnet8", width=4),
        teacher_batch=100, batches=2, student_batch=100, steps=3, rounds=1,
    )  # fmt: skip


def main() -> None:
    """A table; then the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a moment's work on the digits, for a test")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(small(Path(name)) if arguments.small else full(), Path(name))
    for figure, value in found.items():
        print(f"{figure:>22} {value:>10}")
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({**found, "device": DEVICE, "cores": cores, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
