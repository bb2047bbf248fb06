import re

import pytest
import torch

from tasks.dataset_distillation.buffers import buffer_files, check_shapes, flat_snapshots, read_buffer

SHAPES = {"weight": (2, 3), "bias": (2,)}


def expert(epochs=2, value=0.0):
    return [[torch.full((2, 3), value + epoch), torch.full((2,), value)] for epoch in range(epochs + 1)]


def test_reads_what_torch_has_written(tmp_path):
    for legacy in (False, True):
        path = tmp_path / "replay_buffer_0.pt"
        torch.save([expert(), expert(value=1.0)], path, _use_new_zipfile_serialization=not legacy)
        found = read_buffer(path)
        assert [len(one) for one in found] == [3, 3]
        assert flat_snapshots(found[1], 1).tolist() == [[1.0] * 8, [2.0] * 6 + [1.0] * 2]


def test_files_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        (tmp_path / f"replay_buffer_{number}.pt").touch()
    (tmp_path / "notes.txt").touch()
    names = [path.name for path in buffer_files(tmp_path)]
    assert names == ["replay_buffer_0.pt", "replay_buffer_2.pt", "replay_buffer_10.pt"]
    assert buffer_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_a_missing_path_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        buffer_files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        buffer_files(tmp_path)


class Stranger:
    """Something that only runs code could restore."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": 1}, "expected a list of experts, found a dict"),
        ([], "expected a list of experts, found an empty list"),
        ([[]], "expected a list of snapshots, found an empty list"),
        ([[torch.zeros(2)]], "expected a list of tensors, found a Tensor"),
        ([expert(), 3], "expected a list of snapshots, found a int"),
        ([[[torch.zeros(2)], [1.0]]], "expected a list of tensors, found a float"),
        ([Stranger()], "not a buffer of trajectories"),
    ],
)
def test_other_content_is_refused_with_what_was_found(tmp_path, content, message):
    path = tmp_path / "replay_buffer_0.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        read_buffer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a pickle at all", b"PK\x03\x04 cut off"])
def test_files_of_another_format_are_refused(tmp_path, content):
    path = tmp_path / "replay_buffer_0.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a buffer of trajectories"):
        read_buffer(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "replay_buffer_0.pt"
    torch.save([expert()], path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a buffer of trajectories"):
        read_buffer(path)


def test_another_network_is_named_by_its_first_parameter():
    check_shapes(expert(), SHAPES, "file")
    with pytest.raises(
        ValueError, match=r"another network: at epoch 0 parameter bias has shape \(2,\).*\(4,\)"
    ):
        check_shapes(expert(), {**SHAPES, "bias": (4,)}, "file")
    with pytest.raises(ValueError, match="parameter more has shape none"):
        check_shapes(expert(), {**SHAPES, "more": (4,)}, "file")
    with pytest.raises(ValueError, match="2 parameters, the network has 1"):
        check_shapes(expert(), {"weight": (2, 3)}, "file")
