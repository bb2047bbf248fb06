"""Runs that tell what they do, and what MLflow then has of them."""

import functools
import io
import time

import numpy as np
from mlflow.tracking import MlflowClient
from PIL import Image

from orchestrator.spool import Spool
from orchestrator.tracking import Tracker, default_artifacts, default_uri

NOWHERE = "http://127.0.0.1:9"
"""The discard port: nothing answers there."""


def spool_of(store, run_id="r1"):
    return Spool(store / "runs" / run_id / "events.jsonl")


@functools.lru_cache
def picture(digest):
    """A PNG that depends on the digest, as a store gives it; some are lost."""
    if digest == "lost":
        raise FileNotFoundError(f"no blob {digest}")
    pixels = np.random.default_rng(len(digest)).integers(0, 255, (300, 100, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def deliver(store, spool, uri=None, **options):
    tracker = Tracker(uri or default_uri(store), spool, picture, default_artifacts(store), **options)
    left = tracker.close(60)
    assert (left, tracker.refused) == (0, 0), tracker.error


def tell(spool, steps=5, state="done", run_id="r1", accuracy=0.9):
    """A run of two stages: one of three shards, one of a single shard."""
    spool.run_started(
        run_id, "digits", {"seed": 0, "stages.experts.epochs": 2}, {"commit": "c0ffee", "overrides": ""}
    )
    data = {"name": "digits", "digest": "d" * 64, "source": '{"name":"digits"}'}
    spool.stage_started("experts", "expert_trajectories", {"epochs": 2}, {"inputs": ""}, [data], shards=3)
    for step in range(steps):
        for shard in ("expert=0,seed=1", "expert=1,seed=1", "expert=2,seed=1"):
            spool.metrics("experts", shard, step, {"loss": 1 / (1 + step), "accuracy": step / 10})
    spool.stage_ended(
        "experts", "done", {"accuracy": accuracy}, "a" * 32, "b" * 64, {"files": [1]}, "| a |", 0
    )
    spool.stage_started("distilled", "trajectory_matching", {"lr": 0.1}, {"inputs": "a" * 32}, [data])
    for step in range(0, steps * 10, 10):
        spool.metrics("distilled", "", step, {"loss": 2.0 - step / 100, "accuracy": 0.1})
        spool.preview("distilled", "", "synthetic", step, "p" * (step + 1))
    spool.stage_ended(
        "distilled", state, {"accuracy": 0.8, "step_ms": 3.5}, failed_shards=int(state == "failed")
    )
    spool.run_ended(state)


def client_of(store):
    return MlflowClient(tracking_uri=default_uri(store))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
