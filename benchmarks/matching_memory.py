"""Memory and time of one matching step at N inner steps: the adjoint against plain double backward.

ConvNet of width 128 and depth 3, 100 images of 3x32x32 in 10 classes, DSA augmentation, float32. Prints a table
and, last, one line of JSON: {"peak_mb", "plain_peak_mb", "time_ratio"}, each with an entry for every N. An entry
is null, and the reason printed, where plain double backward would not fit in the free memory. Needs torch only:

    .venv/bin/python benchmarks/matching_memory.py

Memory on a CPU: a fresh process for each number sets the problem up, takes one matching step of N = 1, resets its
high-water mark (5 to /proc/self/clear_refs, Linux only) and takes the step. The number is the mark then (VmHWM)
less the resident memory just before (VmRSS). glibc is told to map every block of 128 KiB or more on its own, so
that a freed tensor leaves the resident memory at once (in huge pages where it can, for speed). On a GPU it is
torch.cuda.max_memory_allocated less memory_allocated before; never yet run there.

Time: one process for each N takes a matching step of N = 1 of either kind to warm up, then both in turn; the ratio
is that of the medians. glibc is told to keep what is freed. By default it hands large blocks back to the system and
has them zeroed anew, which costs both kinds time that is not the method's, and plain double backward the more.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from tasks.data import augment
from tasks.dataset_distillation.flat import FlatModel
from tasks.dataset_distillation.matching import Target, matching_gradient
from tasks.dataset_distillation.synthetic import cross_entropy
from tasks.dataset_distillation.unrolled import unrolled_gradient
from tasks.nets import Network, build

METHODS = {"adjoint": matching_gradient, "plain": unrolled_gradient}
STEPS = (10, 20, 40, 80)
STRATEGY = "color_crop_cutout_flip_scale_rotate"
CLASSES = 10
FREE_SHARE = 0.75  # of the free memory that plain double backward may take
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RETURN_FREED = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072:glibc.malloc.hugetlb=1"
KEEP_FREED = f"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**46}"


class Problem(NamedTuple):
    width: int
    depth: int
    side: int
    per_class: int


FULL = Problem(width=128, depth=3, side=32, per_class=10)
SMALL = Problem(width=16, depth=2, side=16, per_class=2)


class Row(NamedTuple):
    """Peaks in MB, times in seconds; none where plain double backward would not fit."""

    peak: float
    plain_peak: float | None
    seconds: float | None
    plain_seconds: float | None

    @property
    def ratio(self) -> float | None:
        return self.seconds / self.plain_seconds if self.seconds and self.plain_seconds else None


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(child(args)))
        return
    print(f"{DEVICE}, torch {torch.__version__}, {args.threads} threads, median of {args.repeats}")
    print(f"{'N':>4}{'peak MB':>12}{'plain MB':>12}{'s':>9}{'plain s':>9}{'ratio':>8}")
    rows: dict[int, Row] = {}
    for steps in STEPS[:: len(STEPS) - 1] if args.small else STEPS:
        rows[steps] = measure(args, steps, rows)
        print(f"{steps:>4}" + "".join(cells(rows[steps])), flush=True)
    columns = {
        "peak_mb": {n: round(row.peak, 1) for n, row in rows.items()},
        "plain_peak_mb": {n: row.plain_peak and round(row.plain_peak, 1) for n, row in rows.items()},
        "time_ratio": {n: row.ratio and round(row.ratio, 3) for n, row in rows.items()},
    }
    print(json.dumps(columns))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="width 16, depth 2, 20 images of 3x16x16")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--repeats", type=int, default=3, help="steps of either kind that are timed, one for N >= 40"
    )
    parser.add_argument("--child", choices=["adjoint", "plain", "time"], help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace, steps: int, rows: dict[int, Row]) -> Row:
    """One row of the table; says why where plain double backward is left out."""
    peak = in_child(args, "adjoint", steps, RETURN_FREED)
    before = rows.get(steps // 2)
    expected = 2 * before.plain_peak if before and before.plain_peak else peak * steps
    free = free_mb()
    if expected > FREE_SHARE * free:
        why = f"expected {expected:.0f} MB, more than {FREE_SHARE:.0%} of the {free:.0f} MB that are free"
        print(f"     plain at N = {steps} not run: {why}")
        return Row(peak, None, None, None)
    try:
        plain_peak = in_child(args, "plain", steps, RETURN_FREED)
        return Row(peak, plain_peak, *in_child(args, "time", steps, KEEP_FREED))
    except subprocess.CalledProcessError as failure:
        why = f"its process ended with code {failure.returncode}; free memory for it, {expected:.0f} MB"
        print(f"     plain at N = {steps} left out: {why}")
        return Row(peak, None, None, None)


def cells(row: Row) -> list[str]:
    widths = (12, 12, 9, 9, 8)
    digits = (1, 1, 2, 2, 3)
    values = [*row, row.ratio]
    return [
        f"{'-':>{width}}" if value is None else f"{value:>{width}.{digit}f}"
        for value, width, digit in zip(values, widths, digits, strict=True)
    ]


def free_mb() -> float:
    if DEVICE == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**20
    return from_proc("/proc/meminfo", "MemAvailable")


def from_proc(path: str, name: str) -> float:
    """A field of a file of /proc, which counts in KiB, in MB (2^20 bytes)."""
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def in_child(args: argparse.Namespace, kind: str, steps: int, malloc: str):
    """What a fresh process of this script finds."""
    command = [sys.executable, __file__, "--child", kind, "--steps", str(steps)]
    command += ["--threads", str(args.threads), "--repeats", str(args.repeats), *["--small"] * args.small]
    tuned = {"GLIBC_TUNABLES": malloc, "OMP_WAIT_POLICY": "PASSIVE"}  # no spinning beside other work
    done = subprocess.run(command, env={**os.environ, **tuned}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def child(args: argparse.Namespace) -> float | list[float]:
    torch.set_num_threads(args.threads)
    step = matching_step(SMALL if args.small else FULL)
    if args.child == "time":
        repeats = args.repeats if args.steps < 40 else 1
        return [statistics.median(times) for times in alternate(step, args.steps, repeats)]
    step(args.child, 1)
    return peak_mb(lambda: step(args.child, args.steps))


def matching_step(problem: Problem) -> Callable[[str, int], None]:
    """run(method, N): one matching step of MTT on random images, with the weights of a fresh network."""
    shape = (3, problem.side, problem.side)
    network = Network(width=problem.width, depth=problem.depth)
    model = FlatModel(build(network, shape, CLASSES, seed=0).to(DEVICE))
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(CLASSES * problem.per_class, *shape, generator=draws).to(DEVICE)
    labels = torch.arange(CLASSES, device=DEVICE).repeat_interleave(problem.per_class)
    start = model.initial()
    end = start + 0.02 * torch.randn(start.shape, generator=draws).to(DEVICE)

    def step_loss(step: int, weights: torch.Tensor, images: torch.Tensor, labels: torch.Tensor):
        noise = torch.Generator().manual_seed(step)
        return cross_entropy(model(weights, augment(images, STRATEGY, noise)), labels)

    def run(method: str, steps: int) -> None:
        step_size = torch.tensor(0.01, device=DEVICE)
        target = [Target(steps, end)]
        found = METHODS[method](step_loss, start, target, images, labels, step_size, steps=steps)
        assert found.images.isfinite().all()

    return run


def peak_mb(run: Callable[[], None]) -> float:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    idle = from_proc("/proc/self/status", "VmRSS")
    run()
    return from_proc("/proc/self/status", "VmHWM") - idle


def alternate(step: Callable[[str, int], None], steps: int, repeats: int) -> list[list[float]]:
    """Seconds of each repeat, by method."""
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for method in METHODS:
        step(method, 1)
    for _ in range(repeats):
        for method, seconds in times.items():
            started = time.perf_counter()
            step(method, steps)
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return list(times.values())


if __name__ == "__main__":
    main()
