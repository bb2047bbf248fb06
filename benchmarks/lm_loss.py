"""Memory, time and error of the distillation loss in chunks, against plain torch.

Hidden states and heads of student and teacher to the loss and its gradients, 0.5 divergence + 0.5 cross-entropy,
over tokens (B*T), vocabularies and divergences. Plain: both models' logits in float32, log_softmax, the divergence,
autograd. Prints a table and, last, one line of JSON: {"memory_ratio", "time_ratio", "max_error", "rows"}. memory_ratio
is the worst at the largest size whose plain loss fits in the free memory; time_ratio the worst of all sizes at the
most threads; max_error the largest difference of the loss and of any gradient, each relative to the largest element.

    .venv/bin/python benchmarks/lm_loss.py

Peaks are taken as in matching_memory.py: a fresh process for each, resident memory at its highest less that before;
the gradient of the head, which both ways make, is taken off. Time: both ways in turn in one process that keeps freed
memory, as workers do; medians of the seconds, and of each round's ratio.

With a GPU: bfloat16, V = 128,256 and B*T = 8,192, hidden size 4,096, and Liger's fused JSD beside where it is
installed (jsd without cross-entropy, all it has). Never yet run there.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from matching_memory import DEVICE, KEEP_FREED, RETURN_FREED, free_mb, peak_mb
from torch.nn.functional import nll_loss

from tasks.llm_distillation.losses import DenseTeacher, Divergence, Mixture, distillation_loss

FREE_SHARE = 0.8  # of the free memory that the plain loss may take
PLAIN_TENSORS = 7  # whole logits tensors that it is expected to hold at once
TYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
SIZES = [(1024, 32000), (1024, 49152), (4096, 49152), (1024, 128256)]
GPU_SIZES = [(1024, 128256), (8192, 128256)]
SMALL_SIZES = [(96, 3000), (192, 3000)]
HIDDEN = 4096 if DEVICE == "cuda" else 576


class Problem(NamedTuple):
    """Leaves: the student's hidden states and head; the teacher's are frozen."""

    hidden: torch.Tensor
    head: torch.Tensor
    teacher: DenseTeacher
    labels: torch.Tensor


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(child(args)))
        return
    print(f"{DEVICE}, torch {torch.__version__}, {TYPE}, hidden size {HIDDEN}, median of {args.repeats}")
    print(f"{'divergence':<12}{'B*T':>6}{'V':>8}{'MB':>9}{'plain MB':>10}{'ratio':>7}  time ratio by threads")
    sizes = SMALL_SIZES if args.small else GPU_SIZES if DEVICE == "cuda" else SIZES
    rows = []
    for tokens, vocabulary in sizes:
        for name in args.divergences:
            rows.append(measure(args, name, tokens, vocabulary))
            print(as_line(rows[-1]), flush=True)
    print(json.dumps(summary(rows)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="3,000 tokens in the vocabulary, two sizes")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts to time")
    parser.add_argument("--repeats", type=int, default=3, help="runs of either way that are timed")
    parser.add_argument("--divergences", nargs="+", choices=list(PLAIN), default=list(PLAIN))
    parser.add_argument(
        "--child", choices=["ours", "plain", "liger", "time", "error"], help=argparse.SUPPRESS
    )
    parser.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace, name: str, tokens: int, vocabulary: int) -> dict:
    """One row; what the plain loss would take part in is none where that does not fit."""

    def ask(kind: str, threads: int, malloc: str):
        return in_child(args, kind, name, tokens, vocabulary, threads, malloc)

    most = max(args.threads)
    row = {
        "divergence": name,
        "tokens": tokens,
        "vocabulary": vocabulary,
        "mb": ask("ours", most, RETURN_FREED),
    }
    row |= {"plain_mb": None, "memory_ratio": None, "time_ratio": None, "error": None}
    expected, free = PLAIN_TENSORS * 4 * tokens * vocabulary / 2**20, free_mb()
    if expected > FREE_SHARE * free:
        print(
            f"  plain not run: about {expected:.0f} MB, more than {FREE_SHARE:.0%} of the {free:.0f} MB free"
        )
        return row
    row["plain_mb"] = ask("plain", most, RETURN_FREED)
    row["memory_ratio"] = row["mb"] / row["plain_mb"]
    timed = {threads: ask("time", threads, KEEP_FREED) for threads in args.threads}
    row["seconds"] = {threads: found["seconds"] for threads, found in timed.items()}
    row["time_ratio"] = {threads: found["ratio"] for threads, found in timed.items()}
    row["error"] = ask("error", most, KEEP_FREED)
    if DEVICE == "cuda" and name == "jsd" and find_spec("liger_kernel"):
        row["liger_mb"] = ask("liger", most, RETURN_FREED)
    return row


def as_line(row: dict) -> str:
    head = f"{row['divergence']:<12}{row['tokens']:>6}{row['vocabulary']:>8}{row['mb']:>9.1f}"
    if row["plain_mb"] is None:
        return head + f"{'-':>10}{'-':>7}"
    times = ", ".join(
        f"{n}: {row['time_ratio'][n]:.2f} ({took['ours']:.2f} / {took['plain']:.2f} s)"
        + (f", liger {took['liger']:.2f} s" if "liger" in took else "")
        for n, took in row["seconds"].items()
    )
    return head + f"{row['plain_mb']:>10.1f}{row['memory_ratio']:>7.3f}  {times}  error {row['error']:.1e}"


def summary(rows: list[dict]) -> dict:
    ran = [row for row in rows if row["plain_mb"] is not None]
    largest = max((row["tokens"] * row["vocabulary"] for row in ran), default=0)
    at_largest = [row["memory_ratio"] for row in ran if row["tokens"] * row["vocabulary"] == largest]
    return {
        "memory_ratio": max(at_largest, default=None),
        "time_ratio": max((row["time_ratio"][max(row["time_ratio"])] for row in ran), default=None),
        "max_error": max((row["error"] for row in ran), default=None),
        "rows": rows,
    }


def in_child(args, kind: str, name: str, tokens: int, vocabulary: int, threads: int, malloc: str):
    """What a fresh process of this script finds."""
    command = [sys.executable, __file__, "--child", kind, "--divergences", name, "--tokens", str(tokens)]
    command += ["--vocabulary", str(vocabulary), "--threads", str(threads), "--repeats", str(args.repeats)]
    env = {**os.environ, "GLIBC_TUNABLES": malloc}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def child(args: argparse.Namespace) -> float | dict[str, Any]:
    torch.set_num_threads(args.threads[0])
    name, problem = args.divergences[0], make(args.tokens, args.vocabulary)
    ways = {"ours": lambda p: ours(p, name), "plain": lambda p: plain(p, name)}
    if find_spec("liger_kernel") and DEVICE == "cuda" and name == "jsd":
        ways["liger"] = liger
    if args.child == "time":
        return alternate(ways, problem, args.repeats)
    if args.child == "error":
        return error(step(ways["ours"], problem), step(ways["plain"], problem))
    step(ways[args.child], make(8, 64))
    whole = peak_mb(lambda: step(ways[args.child], problem))
    return whole - problem.head.numel() * problem.head.itemsize / 2**20


def make(tokens: int, vocabulary: int) -> Problem:
    """Random; the logits have a deviation of 2."""
    draws = torch.Generator().manual_seed(0)

    def normal(rows: int, scale: float) -> torch.Tensor:
        return torch.randn(rows, HIDDEN, generator=draws).mul_(scale).to(DEVICE, TYPE)

    scale = 2 / HIDDEN**0.5
    teacher = DenseTeacher(normal(tokens, 1), normal(vocabulary, scale))
    hidden, head = normal(tokens, 1).requires_grad_(), normal(vocabulary, scale).requires_grad_()
    return Problem(hidden, head, teacher, torch.randint(vocabulary, (tokens,), generator=draws).to(DEVICE))


def ours(problem: Problem, name: str) -> torch.Tensor:
    mixture = Mixture(divergences=(Divergence(name=name, weight=0.5),), cross_entropy=0.5)
    return distillation_loss(problem.hidden, problem.head, problem.labels, mixture, problem.teacher).total


def plain(problem: Problem, name: str) -> torch.Tensor:
    with torch.no_grad():
        log_p = (problem.teacher.hidden @ problem.teacher.head.T).float().log_softmax(-1)
    log_q = (problem.hidden @ problem.head.T).float().log_softmax(-1)
    return 0.5 * PLAIN[name](log_p, log_q) + 0.5 * nll_loss(log_q, problem.labels, reduction="sum")


def plain_forward_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum()


def plain_reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_q.exp() * (log_q - log_p)).sum()


def plain_jsd(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m)).sum() + 0.5 * (log_q.exp() * (log_q - log_m)).sum()


PLAIN = {"forward_kl": plain_forward_kl, "reverse_kl": plain_reverse_kl, "jsd": plain_jsd}


def liger(problem: Problem) -> torch.Tensor:
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    teacher = problem.teacher
    return LigerFusedLinearJSD()(problem.hidden, problem.head, teacher.hidden, teacher.head, problem.labels)


def step(way: Callable[[Problem], torch.Tensor], problem: Problem) -> tuple[torch.Tensor, ...]:
    """Loss and gradients by hidden states and head."""
    loss = way(problem)
    return loss.detach(), *torch.autograd.grad(loss, (problem.hidden, problem.head))


def error(mine: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> float:
    return max(
        float((one - other).abs().max() / other.abs().max()) for one, other in zip(mine, theirs, strict=True)
    )


def alternate(ways: dict, problem: Problem, repeats: int) -> dict[str, Any]:
    """Median seconds of each way, and the median ratio of ours to plain in a round: a machine's speed may drift."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        step(way, problem)
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            step(way, problem)
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - started)
    ratio = statistics.median(mine / its for mine, its in zip(times["ours"], times["plain"], strict=True))
    return {"ratio": ratio, "seconds": {name: statistics.median(took) for name, took in times.items()}}


if __name__ == "__main__":
    main()
