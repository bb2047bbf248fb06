"""Images with their classes as a table that Hugging Face's libraries, and `dataset: {name: parquet}`, read."""

import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from .dataset import Dataset


def image_rows(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    more: Mapping[str, pa.Array],
) -> pa.Table:
    """uint8 images (N,C,H,W) as PNG, `label` (N,), and further columns. ValueError for other than 1 or 3 channels."""
    if images.shape[1] not in (1, 3):
        raise ValueError(
            f"images of {images.shape[1]} channels are no PNG; expected 1 or 3: export the files"
        )
    encoded = [{"bytes": _png(image), "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(encoded, kind), "label": pa.array(labels, pa.int64()), **more}
    told = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(class_names)},
        **{name: _feature(column.type) for name, column in more.items()},
    }
    table = pa.table(columns)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": told}})})


def class_names(dataset: Mapping[str, object], classes: int) -> list[str]:
    """The names of a dataset's classes where it can be had here; else their numbers."""
    try:
        return list(Dataset.model_validate(dataset).load().classes)
    except (OSError, ValueError):
        return [str(number) for number in range(classes)]


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def _feature(kind: pa.DataType) -> dict[str, object]:
    if pa.types.is_list(kind):
        return {"_type": "List", "feature": _feature(kind.value_type)}
    return {"_type": "Value", "dtype": str(kind).replace("float", "float32").replace("double", "float64")}
