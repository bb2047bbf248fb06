"""A real S3 server (moto's) in a process of its own, and a wire before it that can be cut.

`python s3.py` is the server: it prints its port, and ends when its standard input closes, so that it outlives
no test run. It takes one request at a time, as moto's check and write of a conditional put are two steps.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "limbeck", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
_FORGOTTEN = (
    "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
_UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Server:
    """moto on a free port of the loopback; its buckets live in its memory."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def bucket(self, name: str) -> None:
        self.request("PUT", f"/{name}")

    def request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """Any request, unsigned; moto asks for no signature unless it is told to."""
        headers = {"Content-Type": "text/plain"}
        asked = urllib.request.Request(self.url + path, data, headers, method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(asked, timeout=30) as answer:
            return answer.read()

    @contextlib.contextmanager
    def demanding_signatures(self) -> Iterator[None]:
        """Meanwhile only users that moto's IAM knows are let in."""
        self.request("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.request("POST", "/moto-api/reset-auth", b"inf")

    def unfinished_uploads(self, bucket: str) -> int:
        return self.request("GET", f"/{bucket}?uploads").count(b"<UploadId>")

    def pause(self) -> None:
        """It answers no more, and refuses nothing: a hang."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self.process.stdin.close()
        self.process.stdout.close()


class Wire:
    """A TCP forwarder before a server, which can be cut in many ways; `asked` holds the first line of every
    request (moto takes one a connection)."""

    def __init__(self, port: int) -> None:
        self._to, self._listener = port, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.asked: list[bytes] = []
        self.busy = False
        self.strips = b""
        """A header that it takes off every request."""
        self.stalled = threading.Event()
        self._losing: list[bytes] = []
        self._left: int | None = None
        self._mended = threading.Event()
        self._stalls = False
        self._closed = False
        self._accepting = self._begin()

    def down(self) -> None:
        """Connections are refused. The port stays ours: it is bound again, without listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._accepting.join(30)

    def up(self) -> None:
        self._listener.listen()
        self._accepting = self._begin()

    def turn_away(self) -> None:
        """It answers 503 until `let_in`."""
        self.busy = True

    def let_in(self) -> None:
        self.busy = False

    def lose(self, start: bytes) -> None:
        """The next request that begins so is done, but its answer is lost."""
        self._losing.append(start)

    def cut(self, after: int) -> None:
        """After so many more bytes to the server every connection ends."""
        self._left, self._stalls = after, False

    def stall(self, after: int) -> None:
        """After so many more bytes to the server nothing goes on, and `stalled` is set."""
        self._left, self._stalls = after, True

    def mend(self) -> None:
        """Ends `cut`; what stalled is cut."""
        self._left = None
        self._mended.set()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._mended.set()
            with contextlib.suppress(OSError):  # it is down already
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._accepting.join(30)

    def _begin(self) -> threading.Thread:
        thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by `down`
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(60)
            first = client.recv(65536)
            self.asked.append(first.partition(b"\r\n")[0])
            if self.strips:
                first = first.replace(self.strips, b"x-" + self.strips[2:])
            if self.busy:
                client.sendall(_UNAVAILABLE)
                return
            with socket.create_connection(("127.0.0.1", self._to), timeout=60) as server:
                lose = next((start for start in self._losing if first.startswith(start)), None)
                if lose:
                    self._losing.remove(lose)
                back = threading.Thread(target=self._answer, args=(server, client, bool(lose)), daemon=True)
                back.start()
                while first and self._passes(len(first)):
                    server.sendall(first)
                    first = client.recv(65536)
                with contextlib.suppress(OSError):  # the server was first to close
                    server.shutdown(socket.SHUT_RDWR)
                back.join(60)

    def _passes(self, size: int) -> bool:
        if self._left is not None:
            self._left -= size
        if self._left is None or self._left > 0:
            return True
        if self._stalls:
            self.stalled.set()
            self._mended.wait(60)
        return False

    def _answer(self, server: socket.socket, client: socket.socket, lose: bool) -> None:
        with contextlib.suppress(OSError):
            if lose:
                server.recv(1)  # it has done what it was asked
            while not lose and (data := server.recv(65536)):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as the context lasts."""
    server = Server()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def wired(server: Server) -> Iterator[Wire]:
    wire = Wire(server.port)
    try:
        yield wire
    finally:
        wire.close()


def environment(patch: Any, url: str, **others: str) -> None:
    """Points the environment at a server; `patch` is pytest's monkeypatch."""
    for name in _FORGOTTEN:
        patch.delenv(name, raising=False)
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": url, **others}.items():
        patch.setenv(name, value)


def main() -> None:
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    moto, one = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environ: Any, start: Any) -> list[bytes]:
        with one:
            return [b"".join(moto(environ, start))]

    class Quiet(MotoRequestHandler):
        def log(self, *_: Any) -> None:
            """Nothing: standard error belongs to the test."""

    def end_with_the_test() -> None:
        sys.stdin.read()
        os._exit(0)

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=end_with_the_test, daemon=True).start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
