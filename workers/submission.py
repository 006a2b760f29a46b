"""Jobs on a cluster: sent to its job server, found again by name, and followed through lost connections."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from storage.errors import InputError, RunError
from workers.ray_environment import PATIENCE, Token, asked_mode, find_token, is_loopback

log = logging.getLogger(__name__)

_ENTRY = "python -m pipeline.entry"
_POLL = 1.0
"""Seconds between two looks at a job."""
_BYTES_A_SECOND = 200_000
"""At most, of a long log: the job server gives it whole or not at all."""
_LONGEST_WAIT = 30.0
"""Seconds between two tries of a server that does not answer."""
_LOST = (OSError, RuntimeError)
"""What Ray's client raises when an answer is bad or missing; all that the requests library raises is an OSError."""
_GIVE_UP = 900.0
"""Seconds without an answer after which the job is left to itself."""


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, url: str, token: Token | None) -> None:
        self.url, self.token = url, token
        self._client = _client(url, token)

    def attempts(self, name: str) -> dict[int, Any]:
        """Every job of that name that the cluster knows, by the number of the attempt."""
        found = {}
        with _asking(self.url):
            jobs = self._client.list_jobs()
        for job in jobs:
            base, _, number = (job.submission_id or "").rpartition("-")
            if job.submission_id == name:
                found[1] = job
            elif base == name and number.isdecimal():
                found[int(number)] = job
        return found

    def running(self, name: str) -> str | None:
        """The id of the attempt that waits or runs, if one does."""
        going = [job.submission_id for job in self.attempts(name).values() if not job.status.is_terminal()]
        return going[0] if going else None

    def submit(self, name: str, package: Path, metadata: dict[str, str]) -> str:
        """Send a job under the next free number; the id of the one that another process sent just before, if so."""
        number = max(self.attempts(name), default=0) + 1
        job = name if number == 1 else f"{name}-{number}"
        with _asking(self.url, unless="already exists"):
            self._client.submit_job(
                entrypoint=_ENTRY,
                submission_id=job,
                runtime_env={"working_dir": str(package)},
                metadata=metadata,
            )
        return job

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Write the job's log as it grows, each character once, until the job ends; garner's exit code in it."""
        written, patience = 0, _Patience(self.url, job)
        while True:
            try:
                details = self._client.get_job_info(job)
                text = self._client.get_job_logs(job)
            except _LOST as error:
                patience.lost(error)
                continue
            patience.answered()
            write(text[written:])
            written = max(written, len(text))
            if details.status.is_terminal():
                return _exit_code(job, details)
            time.sleep(max(_POLL, len(text) / _BYTES_A_SECOND))


class _Patience:
    """How long a server has not answered, and how long to wait before the next try."""

    def __init__(self, url: str, job: str) -> None:
        self._url, self._job = url, job
        self.answered()

    def answered(self) -> None:
        self._heard, self._wait = time.monotonic(), _POLL

    def lost(self, error: Exception) -> None:
        """Wait; `RunError` where waiting is no use."""
        if "status code 404" in str(error):
            raise RunError(
                f"the cluster at {self._url} knows no job {self._job}: its head was started anew; submit again, "
                "what was finished stays"
            ) from error
        if time.monotonic() - self._heard > _GIVE_UP:
            raise RunError(
                f"the cluster at {self._url} has not answered for {_GIVE_UP / 60:.0f} minutes; the job {self._job} may "
                "go on there: the same command finds it again"
            ) from error
        if self._wait == _POLL:
            log.warning("the cluster at %s does not answer; the job goes on there, trying again", self._url)
        time.sleep(self._wait)
        self._wait = min(2 * self._wait, _LONGEST_WAIT)


def job_server(address: str) -> str:
    """The URL of the job server that an address names; `InputError` where it names none."""
    advice = "name the cluster's job server, for instance http://127.0.0.1:8265 through an SSH tunnel to its head"
    if address.startswith("ray://"):
        raise InputError(f"--address {address} is of Ray Client, which garner does not use: {advice}")
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise InputError("--address holds a user name or a password: leave it out, a token goes into RAY_AUTH_TOKEN")
    try:
        whole = bool(parts.hostname and (parts.port or "://" in address))
    except ValueError:  # a port that is no number
        whole = False
    if parts.scheme not in ("http", "https") or not whole or parts.query or parts.fragment:
        raise InputError(f"--address {address!r} is no address of a job server: {advice}")
    return url.rstrip("/")


def connect(url: str) -> Jobs:
    """The jobs of the cluster whose job server is at `url`; `InputError` within seconds where it lets nobody in."""
    mode, asked = asked_mode(), _status(url, None)
    if asked == 200:
        if not is_loopback(urlsplit(url).hostname or ""):
            log.warning(
                "THE CLUSTER AT %s IS OPEN: it asks for no token, so anyone who reaches it can run code on it. "
                "Start it with RAY_AUTH_MODE=token",
                url,
            )
        return Jobs(url, None)
    token = find_token() if mode != "disabled" else None
    if token is None:
        raise InputError(
            f"the cluster at {url} asks for a token, and there is none: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to "
            f"the file that holds it{'; RAY_AUTH_MODE=disabled keeps it from being used' if mode == 'disabled' else ''}"
        )
    if _status(url, token) != 200:
        raise InputError(f"the cluster at {url} refuses the token from {token.source}: it is another cluster's, or old")
    if url.startswith("http://") and not is_loopback(urlsplit(url).hostname or ""):
        log.warning("the token goes to %s in clear: use https, or an SSH tunnel to a port of this machine", url)
    return Jobs(url, token)


def _status(url: str, token: Token | None) -> int:
    """200, 401 or 403, from what is known to be a job server."""
    request = Request(f"{url}/api/version", headers=_headers(token))
    try:
        with urlopen(request, timeout=PATIENCE) as answer:
            code, said = answer.status, answer.read(10_000)
    except HTTPError as error:
        code, said = error.code, b""
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(
            f"no job server answers at {url} ({getattr(error, 'reason', error)}): is the cluster up, its dashboard on, "
            "and the SSH tunnel open?"
        ) from error
    if code not in (401, 403) and b'"ray_version"' not in said:
        raise InputError(f"what answers at {url} ({code}) is not a Ray job server: its usual port is 8265")
    return int(code)


def _headers(token: Token | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.secret}"} if token else {}


def _client(url: str, token: Token | None) -> Any:
    """Ray's own client, which would otherwise wait for ever, and prefer the environment to the address it is given."""
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        client: Any = JobSubmissionClient(url, headers=_headers(token))
    client._do_request = partial(client._do_request, timeout=(PATIENCE, 60))
    return client


@contextmanager
def _asking(url: str, unless: str | None = None) -> Iterator[None]:
    try:
        yield
    except _LOST as error:
        if unless is None or unless not in str(error):
            raise RunError(f"the cluster at {url} did not do as it was asked: {error}") from error


@contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept


def _exit_code(job: str, details: Any) -> int:
    """0, or the 1 or 2 that garner ended with in the job, whose log says why; `RunError` for every other end."""
    if details.status == "SUCCEEDED":
        return 0
    if details.status == "STOPPED":
        raise RunError(f"job {job} was stopped; the same command goes on from there")
    if details.driver_exit_code in (1, 2):
        return int(details.driver_exit_code)
    if details.driver_exit_code is None:
        raise RunError(f"job {job} did not come to run: {details.message}")
    raise RunError(f"job {job} ended with exit code {details.driver_exit_code}: {_meaning(details.driver_exit_code)}")


def _meaning(code: int) -> str:
    if code < 0 or code > 128:
        return "its driver was killed, most likely for want of memory on the head; the same command goes on from there"
    if code == 127:
        return "the head has no `python` on its PATH: use an image, or a set-up, with garner's requirements"
    return "garner has no such code; the log above says what else ran"
