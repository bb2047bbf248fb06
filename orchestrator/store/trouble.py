"""What an object store's library says went wrong, as one line for people, and whether waiting may help."""

import re
from dataclasses import dataclass

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

_STATUS = re.compile(r"status code: (\d{3})([^:\n]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_QUERY = re.compile(r"\?\S*")
"""An address may carry a signature behind its question mark."""
_NETWORK = {
    "ConnectionRefused": "connection refused",
    "dns error": "its name is not known here",
    "ConnectionReset": "the connection was reset",
    "IncompleteMessage": "the connection was closed",
    "TimedOut": "no answer in time",
    "invalid peer certificate": "its certificate is not trusted",
}
_NO_BUCKET = re.compile(
    r"NoSuchBucket|ContainerNotFound|specified (?:bucket|container) does not exist", re.IGNORECASE
)
_NO_CREDENTIALS = (
    "169.254.",
    "metadata.google.internal",
    "token request",
    "/latest/api/token",
    "/latest/meta-data",
)
"""Where credentials are asked for when the environment holds none."""
_LASTING = ("builder error", "redirect", "invalid peer certificate", "NotImplemented")
_PASSING_CODES = {408, 409, 425, 429}
_ADVICE = {
    "bucket": "make it, or name another by --store",
    "refused": "check the credentials, their rights on this bucket, and the clock",
    "credentials": "set those of the store (docs/stores.md), such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "server": "check the address, the region and the network, then run the same command again",
}


@dataclass(frozen=True)
class Trouble:
    """Why a request failed."""

    why: str
    kind: str
    """bucket, refused, credentials: the user's to put right; server: all others."""
    passing: bool
    """Whether the same request may succeed a little later."""

    @property
    def advice(self) -> str:
        return _ADVICE[self.kind]


def trouble(error: BaseError | FileNotFoundError) -> Trouble | None:
    """What `error` means; None for an object that is missing in a bucket that is there."""
    text = str(error)
    if _NO_BUCKET.search(text):
        return Trouble("there is no such bucket", "bucket", False)
    if isinstance(error, FileNotFoundError):
        return None
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return Trouble(_why(text), "refused", False)
    if any(sign in text for sign in _NO_CREDENTIALS):
        return Trouble("no credentials were found", "credentials", False)
    if (status := _STATUS.search(text)) and status[1] in ("401", "403"):
        return Trouble(_why(text), "refused", False)
    return Trouble(_why(text), "server", _is_passing(text))


def _is_passing(text: str) -> bool:
    if any(sign in text for sign in _LASTING):
        return False
    if "RequestTimeout" in text:  # S3 says so with a 400
        return True
    status = _STATUS.search(text)
    return status is None or not 400 <= int(status[1]) < 500 or int(status[1]) in _PASSING_CODES


def _why(text: str) -> str:
    """The reason without the addresses, which may hold signatures."""
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        return f"{status[1]}{status[2].rstrip()}" + (f" ({code[1]})" if code else "")
    for sign, reason in _NETWORK.items():
        if sign in text:
            return reason
    first = text.strip().splitlines()[0] if text.strip() else "unknown error"
    return _QUERY.sub("", first)[:200]
