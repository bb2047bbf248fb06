"""What the TCP ports of a process and all its children answer to one who has no token."""

import importlib
import pkgutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException

import grpc
import psutil
import ray.core.generated

_ANSWER_S = 10
_PAGES = (
    "/",
    "/metrics",
    "/api/version",
    "/api/jobs/",
    "/api/cluster_status",
    "/nodes?view=summary",
    "/logs/",
)
_UNLISTED = tuple(f"/ray.rpc.ObjectManagerService/{name}" for name in ("Push", "Pull", "FreeObjects"))
"""Methods whose description Ray does not ship."""
_NO_SUCH, _REFUSED = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED


@dataclass(frozen=True)
class Port:
    """One that a process listens on."""

    process: str
    """Its command line."""
    address: str
    number: int

    @property
    def on_loopback(self) -> bool:
        return self.address.removeprefix("::ffff:").startswith("127.") or self.address == "::1"


@dataclass(frozen=True)
class Answer:
    """What one port said."""

    refused: frozenset[str]
    given: frozenset[str]


def listening(pid: int) -> Iterator[Port]:
    """All ports of a process and what descends from it."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            said = " ".join([process.name(), *process.cmdline()])
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    yield Port(said, each.laddr.ip, each.laddr.port)


def asked(port: Port) -> Answer:
    """Every page and every method that Ray has, without a token."""
    host = "127.0.0.1" if port.on_loopback or port.address in ("::", "0.0.0.0") else port.address
    refused, given = set[str](), set[str]()
    for page in _PAGES:
        status = _page(f"http://{host}:{port.number}{page}")
        if status in (401, 403):
            refused.add(page)
        elif 0 < status < 400:
            given.add(page)
    for method, code in _methods_asked(f"{host}:{port.number}"):
        if code == _REFUSED:
            refused.add(method)
        elif code != _NO_SUCH:
            given.add(f"{method} {code.name if code else 'OK'}")
    return Answer(frozenset(refused), frozenset(given))


def _page(url: str) -> int:
    """Status of the answer; 0 where the port speaks no HTTP."""
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (HTTPException, OSError):
        return 0


def _methods_asked(address: str) -> Iterator[tuple[str, grpc.StatusCode | None]]:
    """Each method with the code of its answer, None where it did as it was told; nothing from what speaks no gRPC."""
    with grpc.insecure_channel(address) as channel:
        for method in methods():
            try:
                channel.unary_unary(method)(b"", timeout=_ANSWER_S)
                yield method, None
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    return
                yield method, error.code()


@cache
def methods() -> tuple[str, ...]:
    """Of all services that Ray describes, as they are called."""
    found = list(_UNLISTED)
    for module in pkgutil.iter_modules(ray.core.generated.__path__):
        if module.name.endswith("_pb2"):
            described = importlib.import_module(f"ray.core.generated.{module.name}").DESCRIPTOR
            for service in described.services_by_name.values():
                found += [f"/{service.full_name}/{method.name}" for method in service.methods]
    return tuple(found)
