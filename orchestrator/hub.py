"""An artifact as a folder that Hugging Face's libraries load: a dataset where its task tells rows, else a model."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.catalogue import find_task
from orchestrator.errors import UserError
from orchestrator.store import Store, StoredArtifact
from orchestrator.store.upkeep.card import readme
from orchestrator.store.upkeep.copies import place, unwritable
from orchestrator.yaml import write_values

if TYPE_CHECKING:
    import pyarrow as pa

_CONFIG, _WEIGHTS, _TOKENIZER, _CARD = "config.json", "model.safetensors", "tokenizer.json", "card.json"


def export_to_hub(store: Store, artifact: str, folder: Path) -> Path:
    """Writes a dataset (`data/train-*.parquet`) or a model (its weights and JSON files), and a `README.md` whose
    head Hugging Face reads. The folder appears whole or not at all. Raises UserError where the artifact is neither,
    or the folder holds something."""
    made, folder = store.artifact(artifact), Path(folder).resolve()
    tables = find_task(made.manifest.task).rows(made)
    if tables is None and not {_CONFIG, _WEIGHTS} <= set(made.names):
        raise UserError(
            f"artifact {artifact[:12]} of kind {made.kind} is neither a dataset nor a model; leave out `--as hub` "
            "to export its files"
        )
    text = readme(store, artifact)

    def fill(half: Path) -> None:
        half.mkdir()
        head = _model(made, half) if tables is None else _dataset(made, tables, half)
        (half / "README.md").write_text(f"---\n{write_values(head)}---\n\n{text}")

    try:
        place(folder, fill)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def _dataset(made: StoredArtifact, tables: "Iterator[pa.Table]", folder: Path) -> Mapping[str, Any]:
    import pyarrow.parquet as pq

    (folder / "data").mkdir()
    rows = 0
    for number, table in enumerate(tables):
        pq.write_table(table, folder / "data" / f"train-{number:05d}.parquet", compression="zstd")
        rows += table.num_rows
    files = [{"split": "train", "path": "data/train-*.parquet"}]
    return {
        "tags": ["limbeck", made.kind],
        "size_categories": [_size(rows)],
        "configs": [{"config_name": "default", "data_files": files}],
    }


def _model(made: StoredArtifact, folder: Path) -> Mapping[str, Any]:
    for name in made.names:
        if name != _CARD and name.endswith((".json", ".safetensors")):
            shutil.copyfile(made.file(name), folder / name)
    known = {"library_name": "transformers"} if _TOKENIZER in made.names else {}
    return {**known, "tags": ["limbeck", made.kind]}


def _size(rows: int) -> str:
    """As Hugging Face classes datasets."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    for power, bound in enumerate(bounds, 3):
        if rows < 10**power:
            return f"n<{bound}" if power == 3 else f"{bounds[power - 4]}<n<{bound}"
    return "n>1B"
