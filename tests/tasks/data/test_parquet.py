import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.data import Dataset


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


def table(images, labels, names=None, as_struct=True, **columns):
    """As Hugging Face datasets write it."""
    blobs = [png(image) for image in images]
    column = pa.array([{"bytes": blob, "path": "x.png"} for blob in blobs]) if as_struct else pa.array(blobs)
    made = pa.table({"image": column, "label": pa.array(labels, pa.int64()), **columns})
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return made.replace_schema_metadata(metadata) if names else made


@pytest.fixture
def files(tmp_path, pictures):
    images, labels = pictures()
    pq.write_table(table(images, labels), tmp_path / "train.parquet")
    pq.write_table(table(images[:6], labels[:6]), tmp_path / "test.parquet")
    return tmp_path / "train.parquet", tmp_path / "test.parquet"


def dataset(train, test, **settings):
    return Dataset(name="parquet", train=str(train), test=str(test), **settings)


@pytest.mark.parametrize("as_struct", [True, False], ids=["struct", "binary"])
@pytest.mark.parametrize("channels", [1, 3])
def test_reads_encoded_images(tmp_path, pictures, as_struct, channels):
    images, labels = pictures(channels=channels)
    for split in ("train", "test"):
        pq.write_table(table(images, labels, as_struct=as_struct), tmp_path / f"{split}.parquet")
    data = dataset(tmp_path / "train.parquet", tmp_path / "test.parquet").load()
    np.testing.assert_array_equal(data.train.images, images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.train.labels, labels)


def test_keeps_the_class_names_of_hugging_face(tmp_path, pictures):
    images, labels = pictures()
    for split in ("train", "test"):
        pq.write_table(table(images, labels, ["cat", "dog", "owl"]), tmp_path / f"{split}.parquet")
    assert dataset(tmp_path / "train.parquet", tmp_path / "test.parquet").load().classes == (
        "cat",
        "dog",
        "owl",
    )


@pytest.mark.parametrize("train", ["train", "train/part-*.parquet"], ids=["folder", "pattern"])
def test_reads_many_files_in_the_order_of_their_names(files, tmp_path, pictures, train):
    images, labels = pictures()
    (tmp_path / "train").mkdir()
    for part in (2, 0, 5, 1, 4, 3):
        rows = slice(part * 2, part * 2 + 2)
        pq.write_table(table(images[rows], labels[rows]), tmp_path / "train" / f"part-{part}.parquet")
    data = dataset(tmp_path / train, files[1]).load()
    np.testing.assert_array_equal(data.train.images, images.transpose(0, 3, 1, 2))


def test_columns_can_be_named(tmp_path, pictures):
    images, labels = pictures()
    blobs = pa.array([png(255 - image) for image in images])
    for split in ("train", "test"):
        both = table(images, labels // 2, fine=pa.array(labels), other=blobs).drop_columns(["label"])
        pq.write_table(both.append_column("coarse", pa.array(labels // 2)), tmp_path / f"{split}.parquet")
    paths = tmp_path / "train.parquet", tmp_path / "test.parquet"
    chosen = dataset(*paths, image_column="other", label_column="fine")
    np.testing.assert_array_equal(chosen.load().train.images, 255 - images.transpose(0, 3, 1, 2))
    assert chosen.load().counts == (4, 4, 4)
    assert (
        chosen.content_digest() != dataset(*paths, image_column="image", label_column="fine").content_digest()
    )


def test_refuses_to_guess_between_columns(files, pictures, refuses):
    images, labels = pictures()
    pq.write_table(table(images, labels, mask=pa.array([b""] * 12)), files[0])
    with refuses(
        files[0], "2 of its columns can be the images", "image (struct", "name it in `image_column`"
    ):
        dataset(*files).load()


@pytest.mark.parametrize("column", ["image_column", "label_column"])
def test_refuses_a_named_column_that_is_not_there(files, column, refuses):
    with refuses(files[0], "no column 'img'", "label (int64)", f"correct `{column}`"):
        dataset(*files, **{column: "img"}).load()


def test_refuses_a_file_without_labels(files, pictures, refuses):
    pq.write_table(table(*pictures()).drop_columns(["label"]), files[0])
    with refuses(files[0], "0 of its columns can be the labels", "name it in `label_column`"):
        dataset(*files).load()


def test_refuses_a_label_column_of_text(files, pictures, refuses):
    images, _ = pictures()
    pq.write_table(table(images, [0] * 12).set_column(1, "label", pa.array(["cat"] * 12)), files[0])
    with refuses("train.parquet", "labels are not whole numbers (found 'cat'"):
        dataset(*files).load()


def test_refuses_an_image_column_that_holds_none(files, refuses):
    with refuses(files[0], "the image column is of the type int64", "name another in `image_column`"):
        dataset(*files, image_column="label").load()


def test_refuses_missing_image_bytes_and_labels(files, pictures, refuses):
    images, labels = pictures()
    good = table(images, labels)
    blobs = good["image"].to_pylist()
    blobs[3]["bytes"] = None
    pq.write_table(good.set_column(0, "image", pa.array(blobs)), files[0])
    with refuses(files[0], "row 3 holds no image bytes", "embed"):
        dataset(*files).load()
    pq.write_table(good.set_column(1, "label", pa.array([0, 1, None] * 4)), files[0])
    with refuses(files[0], "row 2 has no label", "fill or drop"):
        dataset(*files).load()


def test_refuses_a_damaged_image(files, pictures, refuses):
    images, labels = pictures()
    broken = table(images, labels, as_struct=False)
    blobs = broken["image"].to_pylist()
    blobs[5] = b"no image"
    pq.write_table(broken.set_column(0, "image", pa.array(blobs)), files[0])
    with refuses(f"{files[0]} row 5", "its format is not known"):
        dataset(*files).load()


def test_refuses_images_of_differing_sizes(files, pictures, refuses):
    images, labels = pictures()
    mixed = [*images[:-1], images[-1, :5]]
    pq.write_table(table(mixed, labels), files[0])
    with refuses(f"{files[0]} row 11", "8x5 pixels; expected 8x8", "resize"):
        dataset(*files).load()


def test_refuses_another_format(files, refuses):
    files[0].write_bytes(b"comma,separated")
    with refuses(files[0], "cannot be read", "expected a Parquet file", "check the file"):
        dataset(*files).load()


def test_refuses_an_unreadable_column(files, refuses):
    content = bytearray(files[0].read_bytes())
    content[4:400] = bytes(396)
    files[0].write_bytes(content)
    with refuses(files[0], "expected a Parquet file"):
        dataset(*files).load()


@pytest.mark.parametrize("name", ["none.parquet", "none-*.parquet", "empty"])
def test_refuses_what_is_not_there(files, tmp_path, name, refuses):
    (tmp_path / "empty").mkdir()
    with refuses(tmp_path / name, "expected a Parquet file", "correct the path"):
        dataset(tmp_path / name, files[1]).load()
