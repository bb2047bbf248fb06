"""`openml`: a dataset of openml.org by its number, downloaded once and kept as a Parquet file."""

import http.client
import logging
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data.files import appearing, data_folder, first_line

FOLDER = "openml"
TARGET = "target"

log = logging.getLogger(__name__)


def kept(number: int) -> Path:
    """The Parquet file of dataset `number` in the data folder, with its own target as the column `target`.

    It is downloaded where it is missing. Raises ConnectionError where it cannot be, ValueError where the
    dataset has no single target.
    """
    path = data_folder(FOLDER, None) / f"{number}.parquet"
    if not path.is_file():
        table = _fetched(number, path)
        with appearing(path) as file:
            pq.write_table(table, file, compression="zstd")
    return path


def _fetched(number: int, path: Path) -> pa.Table:
    from sklearn.datasets import fetch_openml

    log.info("downloading dataset %d of openml.org to %s", number, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            bunch = fetch_openml(data_id=number, data_home=path.parent, as_frame="auto", parser="auto")
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(
                f"openml {number}: cannot be downloaded ({first_line(error)}); put the table with its target as "
                f"the column `target` into {path}, or use your own file: {{name: table, path: FILE}}"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"openml {number}: cannot be read ({first_line(error)}); expected a dataset of openml.org: correct "
                "`id`, or use your own file: {name: table, path: FILE}"
            ) from error
    for warning in caught:
        log.warning("openml %d: %s", number, warning.message)
    return _table(bunch, number)


def _table(bunch: Any, number: int) -> pa.Table:
    """The features, then the dataset's own target under the name `target`."""
    if len(bunch.target_names) != 1:
        raise ValueError(
            f"openml {number}: has {len(bunch.target_names)} target columns; expected one: use your own file, "
            "{name: table, path: FILE, target: COLUMN}"
        )
    if bunch.frame is None:  # a sparse one
        dense = dict(zip(bunch.feature_names, bunch.data.toarray().T, strict=True))
        return pa.table({**_renamed(dense), TARGET: bunch.target})
    frame = pa.Table.from_pandas(bunch.frame, preserve_index=False).replace_schema_metadata(None)
    own = bunch.target_names[0]
    features = {name: frame[name] for name in frame.column_names if name != own}
    return pa.table({**_renamed(features), TARGET: frame[own]})


def _renamed(features: dict[str, Any]) -> dict[str, Any]:
    """Makes room for the target's name."""
    return {f"{name}_feature" if name == TARGET else name: column for name, column in features.items()}
