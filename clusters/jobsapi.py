"""Ray's Jobs API: its own client, with a deadline for every request, and what went wrong in one line."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from typing import Any

import aiohttp
import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from clusters.clients import Unanswered
from orchestrator.errors import Infeasible, UserError, last_line

_ELSEWHERE = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where one of these is set, Ray's client goes there, whatever address it is given."""
_NOT_YET = "No available agent"
"""What a head says whose agent is not up yet: for some seconds after its start."""
_PAUSE_S = 1.0


class _Timely(JobSubmissionClient):
    """Ray's client has no deadlines."""

    def __init__(self, address: str, headers: dict[str, str], wait_s: float) -> None:
        self._wait_s = wait_s
        super().__init__(address, headers=headers)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=self._wait_s, **options)

    @property
    def ray_version(self) -> str:
        return str(self._server_ray_version)


class Client:
    """The Jobs API of one cluster. Every method raises Unanswered where there is no answer within `wait_s` seconds
    or another than expected, and UserError where the token is refused."""

    def __init__(self, address: str, token: str | None, wait_s: float) -> None:
        """Asks for the cluster's Ray; Infeasible where it is not ours."""
        if other := next((name for name in _ELSEWHERE if os.environ.get(name)), None):
            raise UserError(f"{other} is set, and Ray's client would go there, not to {address}; unset it")
        self.address, self.wait_s = address, wait_s
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        with self._told():
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            self._client = _Timely(address, headers, wait_s)
        self.ray_version = self._client.ray_version
        if self.ray_version != ray.__version__:
            raise Infeasible(
                f"{address} runs Ray {self.ray_version}, here is {ray.__version__}; make them the same"
            )

    def submit(self, name: str, entrypoint: str, runtime_env: Mapping[str, Any]) -> None:
        """Runs a line of shell on the head. A head that has just been started is waited for."""
        deadline = time.monotonic() + self.wait_s
        while True:
            try:
                with self._told():
                    self._client.submit_job(
                        entrypoint=entrypoint, submission_id=name, runtime_env=dict(runtime_env)
                    )
                return
            except Unanswered as error:
                if _NOT_YET not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    def job(self, name: str) -> Mapping[str, Any] | None:
        """What is known of a job: status, message, driver_exit_code among others; None where there is none."""
        with self._told():
            answer = self._client._do_request("GET", f"/api/jobs/{name}")
            if answer.status_code == 404:
                return None
            if answer.status_code != 200:
                self._client._raise_error(answer)
            found: Mapping[str, Any] = answer.json()
            return found

    def output(self, name: str) -> str:
        with self._told():
            return str(self._client.get_job_logs(name))

    def tail(self, name: str) -> Generator[str | None]:
        """Pieces of a job's output until it ends; None whenever nothing has come for `wait_s` seconds."""
        with self._told(), asyncio.Runner() as runner:
            pieces = self._client.tail_job_logs(name)
            coming = runner.get_loop().create_task(_next(pieces))
            while True:
                runner.run(_patiently(coming, self.wait_s))
                if not coming.done():
                    yield None
                    continue
                if (piece := coming.result()) is None:
                    return
                yield piece
                coming = runner.get_loop().create_task(_next(pieces))

    def stop(self, name: str) -> None:
        with self._told():
            self._client.stop_job(name)

    def forget(self, name: str) -> None:
        """Takes a job that has ended off the cluster's list."""
        with self._told():
            self._client.delete_job(name)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise UserError(
                f"{self.address}: {str(error).splitlines()[0]}; name the file of the cluster's token by token_file"
            ) from error
        except (OSError, RuntimeError, ValueError, aiohttp.ClientError) as error:
            raise Unanswered(f"{self.address}: {last_line(str(error)) or type(error).__name__}") from error


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


async def _patiently(coming: "asyncio.Task[str | None]", wait_s: float) -> None:
    await asyncio.wait({coming}, timeout=wait_s)
