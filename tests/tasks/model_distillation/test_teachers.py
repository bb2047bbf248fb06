import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.data import Dataset
from tasks.model_distillation.soft_labels import SoftLabels
from tasks.model_distillation.teachers import Teacher, load_trained, trained_digest
from tests.tasks.harness import run_task

RESNETS = Path("~/.cache/limbeck/data/cifar_resnets").expanduser()
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PROCESSOR = {
    "size": {"shortest_edge": 24},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}


@pytest.fixture(scope="module")
def face(tmp_path_factory):
    """A small model in Hugging Face's layout that knows ten classes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("model")
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=10
    )
    torch.manual_seed(0)
    ResNetForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "expected"), [(20, 0.9173), (56, 0.9339)])
def test_the_public_resnets_have_their_accuracy_on_cifar10(depth, expected):
    file, data = f"resnet{depth}_cifar10.safetensors", Path("~/.cache/limbeck/data/cifar10").expanduser()
    if not (RESNETS / file).is_file() or not (data / "test.npz").is_file():
        pytest.skip("cifar_resnets or cifar10 is not here")
    teacher = Teacher(checkpoint=str(RESNETS / file), classifier=f"cifar_resnet{depth}", **IMAGENET)
    test = Dataset(name="cifar10").load().test
    model = teacher.load((3, 32, 32), 10, "cpu")
    with torch.inference_mode():
        found = model(torch.from_numpy(test.images[:1000]).float() / 255).argmax(1)
    accuracy = float((found == torch.from_numpy(test.labels[:1000])).float().mean())
    assert accuracy == pytest.approx(expected, abs=0.02)


def test_a_relative_checkpoint_is_looked_for_among_the_data(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/weights.safetensors").write_bytes(Path(teacher["checkpoint"]).read_bytes())
    found = Teacher.model_validate({**teacher, "checkpoint": "mine/weights.safetensors"})
    assert found.content_digest() == Teacher.model_validate(teacher).content_digest()


def test_a_checkpoint_is_the_classifier_that_was_trained(teacher, trained):
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loaded = Teacher.model_validate(teacher).load((1, 8, 8), 10, "cpu")
    expected = load_trained(trained, 0, "cpu").trace(images)
    found = loaded.trace(images)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(loaded.head(found.features), found.logits)
    assert [tuple(maps.shape) for maps in found.maps] == [(5, 8, 8, 8), (5, 16, 4, 4), (5, 32, 2, 2)]
    assert trained_digest(trained, 0) != trained_digest(trained, 1)


def test_a_hugging_face_model_sees_what_its_processor_would_show(face):
    from transformers import ResNetForImageClassification

    teacher = Teacher(huggingface=str(face))
    assert teacher.facts((3, 8, 8), 10)["features"] == 8
    model = teacher.load((3, 8, 8), 10, "cpu")
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    resized = torch.nn.functional.interpolate(images, (24, 24), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(PROCESSOR[name])[:, None, None] for name in ("image_mean", "image_std"))
    original = ResNetForImageClassification.from_pretrained(face).eval()
    with torch.no_grad():
        trace = model.trace(images)
        torch.testing.assert_close(trace.logits, original((resized - mean) / std).logits)
        torch.testing.assert_close(model.head(trace.features), trace.logits)


def test_a_hugging_face_model_labels_grey_images_too(face, soft_labels):
    config = {"dataset": "digits", "teacher": {"huggingface": str(face)}, "views_per_shard": 2000}
    found = run_task(SoftLabels, config)
    assert found.facts["teacher_digest"] != soft_labels.facts["teacher_digest"]
    assert found.metrics["set_aside"] == 0


def test_the_digest_of_a_hugging_face_model_is_of_weights_and_processor(face, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in face.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    known = Teacher(huggingface=str(face)).content_digest()
    assert Teacher(huggingface=str(copy)).content_digest() == known
    (copy / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "size": 32}))
    assert Teacher(huggingface=str(copy)).content_digest() != known


def test_a_hugging_face_model_of_other_classes_is_refused(face):
    with pytest.raises(
        ValueError, match="knows 10 classes, the dataset has 3; give a teacher of this dataset"
    ):
        Teacher(huggingface=str(face)).facts((3, 8, 8), 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either `checkpoint` or `huggingface`"),
        ({"checkpoint": "a", "huggingface": "b"}, "give either `checkpoint` or `huggingface`"),
        ({"checkpoint": "a", "classifier": "mlp", "mean": (0.0,)}, "a checkpoint needs `std`: add it"),
        ({"checkpoint": "a", "classifier": "mlp", "mean": (0.0,), "std": (0.0,)}, "numbers above 0"),
        ({"huggingface": "a", "mean": (0.0,)}, "brings its own classifier, mean and std"),
        (
            {"checkpoint": "a", "classifier": "mlp", "mean": (0.0,), "std": (1.0,), "revision": "b"},
            "a checkpoint has no `revision`",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Teacher(**settings)


def test_a_model_of_the_hub_needs_its_commit():
    with pytest.raises(
        ValueError, match=r"set `revision` to its commit, 40 hexadecimal digits \(found main\)"
    ):
        Teacher(huggingface="owner/model", revision="main").content_digest()


def test_a_checkpoint_that_is_none_is_refused_by_name(teacher, tmp_path):
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"not tensors")
    for file, message in (
        (wrong, "cannot be read"),
        (tmp_path / "none.safetensors", "no such file or folder"),
    ):
        with pytest.raises(ValueError, match=f"{file.name}: {message}"):
            Teacher.model_validate({**teacher, "checkpoint": str(file)}).facts((1, 8, 8), 10)


def test_a_checkpoint_of_something_else_is_refused_by_tensor(teacher, tmp_path):
    weights = load_file(teacher["checkpoint"])
    del weights["bn1.weight"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(
        ValueError, match=r"tensor bn1.weight is missing, expected \(8,\); name the classifier"
    ):
        Teacher.model_validate({**teacher, "checkpoint": str(tmp_path / "less.safetensors")}).facts(
            (1, 8, 8), 10
        )
    with pytest.raises(ValueError, match=r"tensor .* is .*, expected .*; name the classifier"):
        Teacher.model_validate({**teacher, "classifier": "cifar_resnet14"}).facts((1, 8, 8), 10)
    with pytest.raises(ValueError, match="mean has 3 numbers for images of 1 channels"):
        Teacher.model_validate({**teacher, "mean": (0.0, 0.0, 0.0)}).facts((1, 8, 8), 10)
