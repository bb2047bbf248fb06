"""Keys that must not change: a store made by an earlier release is to be found again.

If one changes because the same settings now give other bytes, or because a default changed, raise `version`
of that task and write the new keys here. If one changes for any other reason, that reason is a mistake.
"""

import json
from pathlib import Path

import pytest

from orchestrator.catalogue import find_task
from orchestrator.experiment import parse_settings
from orchestrator.stagekeys import shard_key, stage_key
from orchestrator.task import Shard

FROZEN = json.loads((Path(__file__).parent / "frozen_keys.json").read_text())
INPUT = "0" * 32


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The corpora and models that settings name, here; of a model only the digest of its files is asked."""
    for name, content in {
        "corpus.txt": "One text.\n",
        "rows.jsonl": '{"prompt": "Ask.", "response": "Answer."}\n',
        "model/config.json": "{}",
        "model/model.safetensors": "weights",
        "model/tokenizer.json": "{}",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)


def keys(case):
    """Keys of the first shard and of a stage of that one shard; no data is read."""
    task = find_task(case["task"])
    config = parse_settings(task.Config, case["settings"])
    shard = Shard(case["shard"], ignores=frozenset(case.get("ignores", [])))
    inputs = {name: INPUT for name, value in case["settings"].items() if value == "${input}"}
    first = shard_key(case["task"], task.version, case["seed"], config, inputs, shard)
    return [first, stage_key(case["task"], task.version, config, inputs, [first])]


@pytest.mark.parametrize("case", FROZEN, ids=lambda case: f"{case['task']}-{case['seed']}")
@pytest.mark.usefixtures("files")
def test_keys_are_those_of_earlier_releases(case):
    assert keys(case) == case["keys"]
