"""Lines of a file that grows."""

from clusters.tail import lines


def test_nothing_is_missed_and_nothing_is_said_twice(tmp_path):
    path, looks = tmp_path / "output.txt", iter(["", "b\n\nc", " goes on\nend"])
    path.write_text("a\n")

    def over():
        """Writes on, as the job would, until it has ended."""
        if (more := next(looks, None)) is None:
            return True
        with path.open("a") as out:
            out.write(more)
        return False

    assert list(lines(path, over)) == ["a", "b", "", "c goes on", "end"]
    assert list(lines(path, lambda: True)) == ["a", "b", "", "c goes on", "end"]
