import numpy as np
import pytest
from PIL import Image

from tasks.data import Dataset


@pytest.fixture
def folder(tmp_path, pictures):
    """Training and test folder with the classes cat, dog and owl, written out of order."""
    images, labels = pictures()
    for split, count in (("train", 12), ("test", 6)):
        for index in reversed(range(count)):
            place = tmp_path / split / ("cat", "dog", "owl")[labels[index]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(place / f"{index:02d}.png")
    return tmp_path


def dataset(folder):
    return Dataset(name="image_folder", train=str(folder / "train"), test=str(folder / "test"))


def test_classes_and_images_come_in_the_order_of_their_names(folder, pictures):
    images, labels = pictures()
    order = np.argsort(labels, kind="stable")
    data = dataset(folder).load()
    assert data.classes == ("cat", "dog", "owl")
    np.testing.assert_array_equal(data.train.labels, labels[order])
    np.testing.assert_array_equal(data.train.images, images[order].transpose(0, 3, 1, 2))


def test_other_and_hidden_files_are_passed_over(folder):
    before = dataset(folder).content_digest()
    (folder / "train" / "cat" / "notes.txt").write_text("a note")
    (folder / "train" / ".thumbnails").mkdir()
    (folder / "train" / "list.csv").write_text("a,b")
    assert dataset(folder).content_digest() == before
    assert dataset(folder).load().counts == (4, 4, 4)


def test_digest_tells_classes_apart(folder):
    before = dataset(folder).content_digest()
    (folder / "train" / "owl").rename(folder / "train" / "zebra")
    assert dataset(folder).content_digest() != before


def test_refuses_a_missing_folder(folder, refuses):
    with refuses(folder / "none", "no such file or folder", "correct the path"):
        Dataset(name="image_folder", train=str(folder / "none"), test=str(folder / "test")).load()


def test_refuses_a_file(folder, refuses):
    path = folder / "train" / "cat" / "00.png"
    with refuses(path, "cannot be opened (Not a directory)", "one subfolder of images for each class"):
        Dataset(name="image_folder", train=str(path), test=str(folder / "test")).load()


def test_refuses_a_folder_without_subfolders(folder, refuses):
    with refuses(folder / "train" / "cat", "holds no subfolders", "sort the images"):
        Dataset(name="image_folder", train=str(folder / "train" / "cat"), test=str(folder / "test")).load()


def test_refuses_an_empty_class(folder, refuses):
    (folder / "train" / "eel").mkdir()
    with refuses(folder / "train", "class 'eel' (label 2) has no images", "remove the class"):
        dataset(folder).load()


def test_refuses_folders_without_any_image(tmp_path, refuses):
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with refuses(tmp_path / "train", "holds no images"):
        dataset(tmp_path).load()


def test_refuses_a_test_folder_with_other_classes(folder, refuses):
    (folder / "test" / "owl").rename(folder / "test" / "emu")
    with refuses(folder / "test", "its classes differ", "'emu'"):
        dataset(folder).load()


def test_refuses_images_of_differing_sizes(folder, refuses):
    path = folder / "train" / "dog" / "01.png"
    Image.new("RGB", (9, 7)).save(path)
    with refuses(path, "9x7 pixels; expected 8x8", "resize"):
        dataset(folder).load()


def test_refuses_what_is_no_image(folder, refuses):
    path = folder / "train" / "dog" / "01.png"
    path.write_bytes(b"not a picture")
    with refuses(path, "its format is not known", "expected an image", "check the file"):
        dataset(folder).load()
