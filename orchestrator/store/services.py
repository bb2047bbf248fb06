"""Which object store a URI names, and the connection to it. Credentials come from the environment alone."""

import ipaddress
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from orchestrator.errors import UserError
from orchestrator.store.bytes import check_name

_URI = re.compile(r"(s3|gs|az)://([A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9])(?:/(.*))?")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_SILENCE_S, _LONGEST_S, _CONNECT_S = 60.0, 900.0, 5.0
"""Without a byte of an answer; for one request with all of its answer; until a connection stands."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


@dataclass(frozen=True)
class Service:
    """A prefix of a bucket at some provider."""

    scheme: str
    """s3, gs or az."""
    bucket: str
    prefix: str

    @classmethod
    def of(cls, uri: str) -> Self:
        """UserError for a URI that is none. Its own text is not repeated: it may hold a password."""
        found = _URI.fullmatch(uri)
        if found is None:
            scheme = uri.partition("://")[0]
            raise UserError(
                f"store {scheme}://...: expected {scheme}://BUCKET/PREFIX, the bucket of letters, digits and ._-, "
                "without a user, a password or a question mark: credentials come from the environment"
            )
        scheme, bucket, prefix = found.groups(default="")
        prefix = prefix.strip("/")
        return cls(scheme, bucket, check_name(prefix) if prefix else "")

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    def __str__(self) -> str:
        """For messages: the URI, and the server where it is not the provider's own."""
        address = urlsplit(self._endpoint)
        port = f":{address.port}" if address.port else ""
        return self.uri + (f" at {address.scheme}://{address.hostname}{port}" if address.hostname else "")

    @property
    def _endpoint(self) -> str:
        return next((os.environ[name] for name in _ENDPOINTS[self.scheme] if os.environ.get(name)), "")

    def connect(self, retry_s: float) -> ObjectStore:
        """A client whose requests are tried again for so long; no request is made yet."""
        kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
        options: dict[str, Any] = {
            "prefix": self.prefix or None,
            "client_options": {
                "allow_http": self._http(),
                "connect_timeout": timedelta(seconds=_CONNECT_S),
                "read_timeout": timedelta(seconds=_SILENCE_S),
                "timeout": timedelta(seconds=_LONGEST_S),
            },
            "retry_config": {
                "max_retries": 10_000,
                "retry_timeout": timedelta(seconds=retry_s),
                "backoff": {
                    "init_backoff": timedelta(seconds=_PAUSE_S),
                    "max_backoff": timedelta(seconds=_LONGEST_PAUSE_S),
                },
            },
        }
        if self.scheme == "s3":
            options |= {"conditional_put": "etag"}
        try:
            made: ObjectStore = kinds[self.scheme](self.bucket, **options)
        except (BaseError, ValueError) as error:
            why = str(error).strip().partition("\n")[0][:200]
            raise UserError(
                f"store {self.uri}: {why}; check the {self.scheme} variables of the environment (docs/stores.md)"
            ) from None
        return made

    def _http(self) -> bool:
        """Unencrypted connections: to this machine, and where the environment says so."""
        address = urlsplit(self._endpoint)
        allowed = os.environ.get(_ALLOW_HTTP[self.scheme], "").lower() in ("1", "true")
        if address.scheme != "http" or allowed or _is_loopback(address.hostname or ""):
            return allowed or address.scheme == "http"
        raise UserError(
            f"store {self.uri}: the endpoint {address.scheme}://{address.hostname} is not encrypted; use https, "
            f"or say {_ALLOW_HTTP[self.scheme]}=true"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
