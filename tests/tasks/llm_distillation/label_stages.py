"""Token labels of tiny models, made in process for tests."""

import json

from tasks.llm_distillation.token_labels import LabelTokens
from tests.tasks.harness import run_task
from tests.tasks.llm_distillation import tiny

LENGTH = 32


def corpus(folder, rows=60):
    """A file of plain texts."""
    path = folder / "texts.jsonl"
    lines = [line for line in tiny.TEXT.splitlines() if len(line) > 20]
    path.write_text("\n".join(json.dumps({"text": lines[row % len(lines)][:90]}) for row in range(rows)))
    return path


def settings(teacher, corpus, **changed):
    usual = {"length": LENGTH, "sequences_per_shard": 10, "batch_size": 4, "labels": {"k": 12}}
    return {"teacher": str(teacher), "corpus": str(corpus), **usual, **changed}


def labelled(teacher, corpus, *, progress=None, kill_after=None, **changed):
    """The artifact."""
    return run_task(
        LabelTokens, settings(teacher, corpus, **changed), progress=progress, kill_after=kill_after
    )
