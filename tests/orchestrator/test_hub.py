"""What `artifacts export --as hub` writes: folders that Hugging Face's libraries load."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from orchestrator.errors import UserError
from orchestrator.hub import export_to_hub
from orchestrator.keys import digest
from orchestrator.store import Store
from orchestrator.task import Output


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path / "store"))


def published(store, task, output, shard=None) -> str:
    key = digest(["shard", task])
    store.commit_shard(key, {"set": 0}, "set=0", shard or Output(documents={"value": 1}))
    manifest = store.make_manifest(
        key=digest(task), kind="toys", task=task, version=1, config={}, seed=0, inputs={},
        facts={"dataset": {"name": "digits"}, "data_digest": "d0", "classes": 2}, output=output,
        shard_keys=[key], provenance={"created": 1, "stage": "s", "experiment": "e", "commit": "c0"},
    )  # fmt: skip
    return store.publish(manifest).id


def head(folder):
    """The YAML at the top of the README, and the rest."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_distilled_set_is_a_dataset_of_images(store, tmp_path):
    transform = {"mean": torch.tensor([0.5]), "std": torch.tensor([0.5])}
    synthetic = {"images": torch.zeros(4, 1, 8, 8), "labels": torch.tensor([0, 0, 1, 1])}
    made = published(
        store, "trajectory_matching", Output(tensors={"transform": transform}),
        Output(tensors={"synthetic": {**synthetic, "learning_rate": torch.tensor(0.1)}}),
    )  # fmt: skip
    folder = export_to_hub(store, made, tmp_path / "out")
    front, text = head(folder)
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert (front["tags"], front["size_categories"]) == (["limbeck", "toys"], ["n<1K"])
    assert f"- `{made}` toys e/s" in text
    table = pq.read_table(folder / "data/train-00000.parquet")
    assert table.schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert b'"_type": "Image"' in table.schema.metadata[b"huggingface"]
    assert table["label"].to_pylist() == [0, 0, 1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]
    with pytest.raises(UserError, match="is not empty"):
        export_to_hub(store, made, tmp_path / "out")


def test_a_model_is_its_weights_and_documents(store, tmp_path):
    documents = {"config": {"model_type": "llama"}, "tokenizer": {}, "card": {"title": "Small", "text": "."}}
    output = Output(tensors={"model": {"w": torch.zeros(2)}}, documents=documents)
    folder = export_to_hub(store, published(store, "distill_lm", output), tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    front, text = head(folder)
    assert front == {"library_name": "transformers", "tags": ["limbeck", "toys"]}
    assert text.lstrip().startswith("# Small")


def test_what_is_neither_is_refused(store, tmp_path):
    made = published(store, "expert_trajectories", Output(documents={"value": 1}))
    with pytest.raises(UserError, match="neither a dataset nor a model"):
        export_to_hub(store, made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
