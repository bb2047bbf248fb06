"""`table`: your own Parquet or CSV file with a target column."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tasks.data.files import data_folder, reading

EXPECTED = "a Parquet (.parquet) or CSV (.csv, .csv.gz) file with a header line"
MISSING = ["", "?", "NA", "N/A", "NaN", "nan", "null", "NULL"]
"""What counts as missing in a CSV file; `?` is what the UCI repository writes."""
PANDAS_INDEX = "__index_level_"
"""How the names of columns begin in which pandas keeps row numbers: no features, left out."""


def absolute(path: str) -> str:
    """`path` from the working directory where the file is there, else as it was: a worker may run in another
    folder, and on another machine the data folder may lie elsewhere."""
    here = Path(path).expanduser().absolute()
    return str(here) if here.exists() else path


def found(path: str) -> Path:
    """A relative path is taken from the working directory, else from the data folder. Raises ValueError."""
    here = Path(path).expanduser().absolute()
    places = list(dict.fromkeys([here, data_folder(path, None).absolute()]))
    for place in places:
        if place.is_file():
            return place
    raise ValueError(
        f"{' or '.join(str(place) for place in places)}: no such file; expected {EXPECTED}: correct `path`, or put "
        "it there"
    )


def is_readable(path: str) -> bool:
    """Whether the name ends as that of a file that can be read."""
    return path.lower().endswith((".parquet", ".csv", ".csv.gz"))


def read(path: Path) -> pa.Table:
    """Raises ValueError that names the file."""
    with reading(path, EXPECTED):
        if path.suffix.lower() == ".parquet":
            table = pq.ParquetFile(path).read()
            return table.drop_columns([name for name in table.column_names if name.startswith(PANDAS_INDEX)])
        options = pyarrow.csv.ConvertOptions(null_values=MISSING, strings_can_be_null=True)
        return pyarrow.csv.read_csv(path, convert_options=options)
