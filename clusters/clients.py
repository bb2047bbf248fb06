"""The command-line clients of clusters: argument lists, deadlines, and what went wrong in one line."""

import contextlib
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from clusters.launcher import Check
from orchestrator.errors import LimbeckError, UserError, last_line


class Unanswered(LimbeckError):
    """The client ended with an error, or not in time. What it said stands in the message."""


def ask(argv: Sequence[str], wait_s: float, given: str = "", env: Mapping[str, str] | None = None) -> str:
    """What a client prints. `given` is its standard input, `env` its whole environment (unset: ours).

    Raises Unanswered where it fails or has not ended after `wait_s` seconds, UserError where it is not installed.
    """
    try:
        done = subprocess.run(
            argv, input=given, env=env, timeout=wait_s, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise _missing(argv, error) from error
    except subprocess.TimeoutExpired as error:
        raise Unanswered(
            f"{shlex.join(argv)}: no answer within {wait_s:g} s (the profile's wait_s)"
        ) from error
    if done.returncode != 0:
        raise _failed(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout


def follow(argv: Sequence[str]) -> Iterator[str]:
    """Lines of a client that goes on until what it follows ends; it is ended when no more are asked for."""
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        try:
            client = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise _missing(argv, error) from error
        with _ended(client):
            assert client.stdout is not None
            for line in client.stdout:
                yield line.rstrip("\n")
            if client.wait() != 0:
                complaints.seek(0)
                raise _failed(argv, client.returncode, complaints.read())


def tried(what: str, argv: Sequence[str], wait_s: float, advice: str, found: str = "") -> Check:
    """Whether a client answers; `found`, or the last line of its answer, is what was found."""
    try:
        said = ask(argv, wait_s)
    except LimbeckError as error:
        return Check(what, False, f"{error}; {advice}")
    return Check(what, True, found or last_line(said) or "answers")


@contextlib.contextmanager
def _ended(client: "subprocess.Popen[str]") -> Iterator[None]:
    try:
        yield
    finally:
        client.terminate()
        try:
            client.wait(5.0)
        except subprocess.TimeoutExpired:
            client.kill()
            client.wait()
        assert client.stdout is not None
        client.stdout.close()


def _missing(argv: Sequence[str], error: OSError) -> UserError:
    return UserError(
        f"{argv[0]}: cannot be started here: {error.strerror}; install it, or put it on the PATH"
    )


def _failed(argv: Sequence[str], code: int, said: str) -> Unanswered:
    return Unanswered(f"{shlex.join(argv)}: exit code {code}: {last_line(said) or 'without a word'}")
