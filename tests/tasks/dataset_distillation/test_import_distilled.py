import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from orchestrator.stagekeys import shard_key, stage_key
from tasks.data import Dataset, Transform
from tasks.dataset_distillation.import_distilled import ImportDistilled
from tests.tasks.dataset_distillation.sets import DIGITS, MLP, evaluated, imported, parsed, real_rows
from tests.tasks.harness import equal, run_task

ROWS = real_rows(2)
PIXELS, LABELS = DIGITS.train.images[ROWS], DIGITS.train.labels[ROWS]
ZCA = Transform.fit(DIGITS.train.images, "zca")


def describe(**settings):
    return ImportDistilled.describe(parsed(ImportDistilled, dataset="digits", **settings), {})


def run(**settings):
    return run_task(ImportDistilled, parsed(ImportDistilled, dataset="digits", network=MLP, **settings))


def published(folder, kind="zca"):
    """The three files of MTT's code, images in shuffled order; what has to be set to read them."""
    order = np.random.default_rng(0).permutation(len(ROWS))
    images = Transform.fit(DIGITS.train.images, kind).apply(PIXELS[order])
    torch.save(images, folder / "images_best.pt")
    torch.save(torch.from_numpy(LABELS[order]), folder / "labels_best.pt")
    torch.save(torch.tensor(0.02), folder / "lr.pt")
    names = {"images": "images_best.pt", "labels": "labels_best.pt", "learning_rate": "lr.pt"}
    return {name: str(folder / file) for name, file in names.items()} | {"transform": kind}


def test_uint8_pixels_are_transformed(tmp_path):
    made = imported(tmp_path, 2)
    found = made.shards[0].tensors("synthetic")
    transform = Transform.fit(DIGITS.train.images, "normalize")
    assert torch.equal(found["images"], transform.apply(PIXELS))
    assert torch.equal(found["labels"], torch.arange(10).repeat_interleave(2))
    assert found["learning_rate"].shape == ()
    assert torch.equal(Transform.from_tensors(made.tensors("transform")).mean, transform.mean)


def test_facts_say_all_that_a_consumer_asks(tmp_path):
    made = imported(tmp_path, 2)
    assert made.kind == "distilled"
    expected = {
        "data_digest", "shape", "classes", "network", "transform", "augment", "images_per_class", "soft_labels",
        "dataset",
    }  # fmt: skip
    assert made.facts.keys() == expected
    assert made.facts["shape"] == [1, 8, 8]
    assert made.facts["images_per_class"] == 2
    assert made.facts["network"]["width"] == 32
    assert made.facts["augment"] == "crop"


@pytest.mark.parametrize("kind", ["normalize", "zca"])
def test_a_published_set_is_sorted_and_judged(tmp_path, kind):
    made = run(**published(tmp_path, kind))
    found = made.shards[0].tensors("synthetic")
    assert torch.equal(found["labels"], torch.arange(10).repeat_interleave(2))
    assert float(found["learning_rate"]) == pytest.approx(0.02)
    transform = Transform.from_tensors(made.tensors("transform"))
    pixels, real = (
        transform.invert(found["images"]).flatten(1).int(),
        torch.from_numpy(PIXELS).flatten(1).int(),
    )
    distances = (pixels[:, None] - real).abs().amax(2)
    assert distances.min(1).values.max() <= 1
    assert (distances.argmin(1) // 2).tolist() == found["labels"].tolist()
    scores = evaluated(made, epochs=60, augment="", controls=["random"])
    assert scores.metrics["distilled_accuracy"] > 0.5
    assert scores.metrics["random_accuracy"] > 0.3


def test_the_same_set_in_other_files_is_the_same(tmp_path):
    settings = published(tmp_path, "normalize")
    whole = run(**settings)
    images, labels = torch.load(settings["images"]), torch.load(settings["labels"])
    np.savez(tmp_path / "one.npz", images=images, labels=labels, learning_rate=np.float32(0.02))
    assert equal(whole, run(images=str(tmp_path / "one.npz")))
    np.savez(tmp_path / "last.npz", images=images.permute(0, 2, 3, 1), labels=labels)
    assert equal(whole, run(images=str(tmp_path / "last.npz"), learning_rate=float(np.float32(0.02))))


def test_statistics_of_others_span_the_space(tmp_path):
    np.savez(tmp_path / "zca.npz", mean=ZCA.mean.flatten(), matrix=ZCA.whitening)
    own = run(**published(tmp_path))
    foreign = run(**published(tmp_path), statistics=str(tmp_path / "zca.npz"))
    spaces = [Transform.from_tensors(made.tensors("transform")).apply(PIXELS) for made in (own, foreign)]
    torch.testing.assert_close(*spaces, rtol=1e-3, atol=1e-3)
    plain = imported(tmp_path, 2, statistics={"mean": [0.0], "std": [0.5]})
    assert torch.equal(plain.shards[0].tensors("synthetic")["images"], torch.from_numpy(PIXELS) / 255 / 0.5)


@pytest.mark.parametrize(("per_class", "size"), [(1, (662, 68)), (2, (134, 662)), (12, (662, 662))])
def test_the_picture_shows_up_to_ten_images_of_each_class(tmp_path, per_class, size):
    [(name, _, png)] = imported(tmp_path, per_class).previews
    assert name == "synthetic"
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size == size


def test_paths_and_file_names_are_not_in_the_key_but_content_is(tmp_path):
    (tmp_path / "moved").mkdir()
    keys = []
    for folder in (tmp_path, tmp_path / "moved"):
        config = parsed(ImportDistilled, dataset="digits", **published(folder))
        [shard] = ImportDistilled.shards(config, ImportDistilled.describe(config, {}))
        keys.append(shard_key("import_distilled", 1, 0, config, {}, shard))
    assert keys[0] == keys[1]
    torch.save(torch.tensor(0.03), tmp_path / "lr.pt")
    again = parsed(ImportDistilled, dataset="digits", **published(tmp_path) | {"learning_rate": 0.03})
    assert shard_key("import_distilled", 1, 0, again, {}, shard) != keys[0]


def test_network_and_augmentation_change_the_artifact_but_not_its_images(tmp_path):
    files = published(tmp_path)
    shard_keys, stage_keys = set(), set()
    for settings in ({}, {"network": MLP}, {"augment": "flip"}):
        config = parsed(ImportDistilled, dataset="digits", **files, **settings)
        [shard] = ImportDistilled.shards(config, ImportDistilled.describe(config, {}))
        shard_keys.add(shard_key("import_distilled", 1, 0, config, {}, shard))
        stage_keys.add(stage_key("import_distilled", 1, config, {}, list(shard_keys)))
    assert len(shard_keys) == 1
    assert len(stage_keys) == 3


def saved(folder, **arrays):
    np.savez(folder / "set.npz", **arrays)
    return {"images": str(folder / "set.npz")}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS, "labels": LABELS}, r"learning_rate: .*set.npz holds no tensor of that name; set"),
        ({"images": PIXELS, "learning_rate": 0.1}, r"labels: .*set.npz holds no tensor of that name; set"),
        ({"images": PIXELS[:, :, :7], "labels": LABELS, "learning_rate": 0.1}, r"expected \(n, 1, 8, 8\)"),
        (
            {"images": PIXELS, "labels": LABELS[:19], "learning_rate": 0.1},
            r"set.npz: labels have the shape \(19,\)",
        ),
        ({"images": PIXELS, "labels": LABELS + 1, "learning_rate": 0.1}, "found the label 10"),
        ({"images": PIXELS, "labels": LABELS * 0, "learning_rate": 0.1}, "class 1 has 0 images"),
        ({"images": PIXELS, "labels": LABELS, "learning_rate": -0.1}, "learning_rate is -0.1"),
        (
            {"images": PIXELS * np.nan, "labels": LABELS, "learning_rate": 0.1},
            "1280 of 1280 pixels are not finite",
        ),
        ({"a": PIXELS, "b": LABELS}, r"set.npz: holds a, b; expected a tensor named 'images'"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as caught:
        describe(**saved(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_network_that_does_not_fit_are_said(tmp_path):
    with pytest.raises(ValueError, match=r"gone.pt: no such file"):
        describe(images=str(tmp_path / "gone.pt"))
    with pytest.raises(ValueError, match="depth 9 is too large"):
        describe(**published(tmp_path), network={"name": "convnet", "depth": 9})
    with pytest.raises(ValueError, match=r"statistics: mean has the shape \(3,\); expected \(1,\)"):
        describe(
            **published(tmp_path) | {"transform": "normalize"}, statistics={"mean": [0] * 3, "std": [1] * 3}
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "expected a step size above 0"),
        ({"augment": "spin"}, "spin"),
        ({"transform": "whiten"}, "'normalize' or 'zca'"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        parsed(ImportDistilled, **{"images": "set.npz", "dataset": "digits"} | settings)


def test_rows_are_the_images_that_a_dataset_of_parquet_files_reads(tmp_path):
    (table,) = ImportDistilled.rows(imported(tmp_path, 2))
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}
    read = Dataset(name="parquet", **files).load()
    np.testing.assert_array_equal(read.train.images, PIXELS)
    np.testing.assert_array_equal(read.train.labels, LABELS)
    assert read.classes == DIGITS.classes


def test_rows_of_soft_labels_hold_the_probabilities(tmp_path):
    soft = np.full((len(ROWS), 10), 0.05, np.float32)
    soft[np.arange(len(ROWS)), LABELS] = 0.55
    path = tmp_path / "soft.npz"
    np.savez(path, images=PIXELS, labels=soft, learning_rate=np.float32(0.02))
    (table,) = ImportDistilled.rows(run(images=str(path)))
    np.testing.assert_allclose(np.array(table["probabilities"].to_pylist()), soft, atol=1e-6)
    assert table["label"].to_pylist() == LABELS.tolist()
