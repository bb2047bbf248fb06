"""Tables for people."""

import pytest

from orchestrator.console import Console


@pytest.mark.parametrize("count", [3, 300])
def test_small_and_large_tables_look_the_same(capsys, count):
    rows = [[f"id{number}", number, None if number % 2 else 0.25, "x [y]"] for number in range(count)]
    Console().table("", ["id", "shards", "accuracy", "last"], rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == count + 1
    assert lines[0].split() == ["id", "shards", "accuracy", "last"]
    assert lines[1].split() == ["id0", "0", "0.25", "x", "[y]"]
    assert lines[2].split() == ["id1", "1", "-", "x", "[y]"]
    assert lines[1].index("0.25") + len("0.25") == lines[0].index("accuracy") + len("accuracy")
