"""Clients that answer, fail, hang, or are followed."""

import sys
import time

import pytest

from clusters.clients import Unanswered, ask, follow, tried
from orchestrator.errors import UserError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_an_answer_and_what_was_given():
    assert ask(python("print(input() * 2)"), 60, given="ab\n") == "abab\n"


def test_the_last_line_of_a_failure_is_told():
    with pytest.raises(Unanswered, match=r"exit code 3: why$"):
        ask(python("import sys; print('first\\nwhy\\n', file=sys.stderr); sys.exit(3)"), 60)


def test_who_does_not_answer_is_not_waited_for():
    began = time.monotonic()
    with pytest.raises(Unanswered, match=r"no answer within 0.2 s"):
        ask(python("import time; time.sleep(600)"), 0.2)
    assert time.monotonic() - began < 300


def test_what_is_not_installed_is_named():
    with pytest.raises(UserError, match="no-such-client: cannot be started here"):
        ask(["no-such-client"], 1)


def test_lines_come_while_the_client_runs_and_it_ends_with_us():
    lines = follow(python("import time\nprint('first', flush=True)\ntime.sleep(600)"))
    assert next(lines) == "first"
    lines.close()


def test_a_followed_client_that_fails_says_why():
    lines = follow(python("import sys\nprint('line')\nsys.exit('gone')"))
    assert next(lines) == "line"
    with pytest.raises(Unanswered, match="gone"):
        next(lines)


def test_tried():
    assert tried("it", python("print('one\\ntwo\\n')"), 60, "").found == "two"
    assert tried("it", python("raise SystemExit('bad')"), 60, "do that").found.endswith("bad; do that")
