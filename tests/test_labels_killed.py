"""Pipelines of teachers, labels and students through the command line, their drivers killed and started again."""

import json

import pytest
from engine import Bench, digests, kill_when, progress

from tests.tasks.llm_distillation import tiny

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

IMAGES = """\
name: killed
stages:
  teacher: {task: train_teacher, dataset: digits, classifier: {name: convnet, width: 16, depth: 2}, epochs: 1}
  labels: {task: soft_labels, dataset: digits, trained_teacher: "${teacher}", views: {padding: 1}, epochs: 4,
           views_per_shard: 1500, batch_size: 50, features: true, progress_s: 0}
  students: {task: distill_student, dataset: digits, labels: "${labels}", student: {name: convnet, width: 8, depth: 2},
             methods: [control, kdpp], repeats: 2, epochs: 4, progress_s: 0}
"""
WORDS = """\
name: killed_words
stages:
  labels: {task: token_labels, corpus: {path: CORPUS, separator: "\\n\\n"}, teacher: MODEL, length: 32,
           labels: {k: 16}, sequences_per_shard: 32, batch_size: 1, progress_s: 0}
"""


def shards(bench):
    """Committed ones."""
    return list(bench.store.glob("shards/*/*.json"))


def artifacts(bench):
    return list(bench.store.glob("artifacts/*/*.json"))


def test_images_killed_among_labels_and_among_students(tmp_path):
    argv = ["run", "walks.yaml", "--json"]
    undisturbed = Bench(tmp_path / "undisturbed", IMAGES).limbeck(*argv).json
    bench = Bench(tmp_path / "killed", IMAGES)
    kill_when(bench, argv, lambda: len(artifacts(bench)) == 1 and len(shards(bench)) > 1 and progress(bench))
    kill_when(bench, argv, lambda: len(artifacts(bench)) == 2 and len(shards(bench)) > 6 and progress(bench))
    answer = bench.limbeck(*argv).json
    assert digests(answer) == digests(undisturbed)
    assert answer["stages"]["labels"]["state"] == "cached"
    assert answer["stages"]["students"]["cached_shards"] >= 1
    assert bench.limbeck("artifacts", "verify", "--json").json["ok"]


def test_labels_of_a_language_model_killed_and_the_plan_tells_their_size(tmp_path, words):
    folder = tiny.saved(tmp_path / "model", tiny.llama(len(words)), words)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(tiny.TEXT * 4)
    text = WORDS.replace("MODEL", str(folder)).replace("CORPUS", str(corpus))
    argv = ["run", "walks.yaml", "--json"]
    reference = Bench(tmp_path / "undisturbed", text)
    planned = reference.limbeck("plan", "walks.yaml", "--json").json["stages"]["labels"]
    undisturbed = reference.limbeck(*argv).json
    shown = reference.limbeck("artifacts", "show", "labels", "--json").json
    packed = sum(file["size"] for shard in shown["shards"] for file in shard["files"].values())
    assert packed / 4 < planned["disk_bytes"] < 4 * packed, "the plan is of the right size"

    bench = Bench(tmp_path / "killed", text)
    kill_when(bench, argv, lambda: shards(bench))
    answer = bench.limbeck(*argv, "labels.resources={workers: 1}").json
    assert digests(answer) == digests(undisturbed)
    assert answer["stages"]["labels"]["cached_shards"] >= 1
    assert json.dumps(answer["stages"]["labels"]["metrics"]) == json.dumps(
        undisturbed["stages"]["labels"]["metrics"]
    )


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()
