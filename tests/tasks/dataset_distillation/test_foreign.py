import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.dataset_distillation.foreign import DataFile, pick

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
TENSOR = torch.from_numpy(VALUES)


def parse(text):
    return DataFile.model_validate_json(text)


def write(path):
    {
        ".npz": lambda: np.savez(path, images=VALUES, other=VALUES + 1),
        ".npy": lambda: np.save(path, VALUES),
        ".safetensors": lambda: save_file({"images": TENSOR}, path),
        ".pt": lambda: torch.save(TENSOR.requires_grad_(), path),
        ".pth": lambda: torch.save({"images": TENSOR, "learning_rate": 0.5}, path),
    }[path.suffix]()
    return DataFile(path=str(path))


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".pt", ".pth"])
def test_the_tensor_is_read_from_each_format(tmp_path, suffix):
    found = write(tmp_path / f"set{suffix}").tensor("images")
    assert torch.equal(found, TENSOR)
    assert not found.requires_grad


def test_a_bare_number_in_a_pt_file_is_a_tensor(tmp_path):
    assert float(write(tmp_path / "set.pth").tensor("learning_rate")) == 0.5


def test_a_string_is_short_for_a_path_and_the_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse('"a.npz"') == parse('{"path": "a.npz"}') == DataFile(path=str(tmp_path / "a.npz"))


def test_it_is_known_by_its_content_alone(tmp_path):
    first = write(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes())
    np.save(tmp_path / "c.npy", VALUES + 1)
    digests = [first, *(DataFile(path=str(tmp_path / name)) for name in ("b.npy", "c.npy"))]
    first_digest, same, other = (file.content_digest() for file in digests)
    assert first_digest == same != other


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.9])
def test_a_damaged_file_gives_one_clear_line(tmp_path, suffix, kept):
    path = tmp_path / f"set{suffix}"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        DataFile(path=str(path)).read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".pt"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(ValueError, match=f"gone{suffix}: no such file; correct the path"):
        DataFile(path=str(tmp_path / f"gone{suffix}")).read()


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"found the suffix '.pkl', expected one of .npz, .npy, .safetensors"
    ):
        DataFile(path=str(tmp_path / "set.pkl")).read()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_no_code_in_a_file_is_run(tmp_path, suffix):
    path, sprung = tmp_path / f"trap{suffix}", tmp_path / "sprung"
    trap = np.array([Trap(sprung)], dtype=object)
    {".npz": np.savez, ".npy": np.save, ".pt": lambda path, trap: torch.save(trap, path)}[suffix](path, trap)
    with pytest.raises(ValueError, match=f"trap{suffix}: not a readable"):
        DataFile(path=str(path)).read()
    assert not sprung.exists()


def test_what_holds_no_tensors_is_refused(tmp_path):
    torch.save({"images": "none"}, tmp_path / "set.pt")
    with pytest.raises(ValueError, match=r"it holds a str, expected a tensor or named tensors"):
        DataFile(path=str(tmp_path / "set.pt")).read()


def test_of_several_tensors_the_right_name_is_asked_for():
    assert torch.equal(pick({"images": TENSOR, "other": TENSOR + 1}, "images", "a file"), TENSOR)
    assert torch.equal(pick({"anything": TENSOR}, "images", "a file"), TENSOR)
    with pytest.raises(ValueError, match="a file: holds x, y; expected a tensor named 'images'"):
        pick({"x": TENSOR, "y": TENSOR}, "images", "a file")
