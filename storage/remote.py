"""Requests to an object store through fsspec: what is waited out, for how long, and what is left of it says."""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from storage.errors import GarnerError, InputError, RunError

T = TypeVar("T")

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Ranged reads under way at once; object stores answer slowly but many at a time."""
PATIENCE = 60.0
"""Seconds of nothing but faults after which a request is given up; a last attempt may end some seconds later."""
FIRST_PATIENCE = 3.0
"""The same for an address where nothing ever answered this process: wrong, rather than down for a moment."""
_LONGEST_WAIT = 8.0
_SINGLE_PUT = 5 * 2**30
"""The largest body that S3 takes in one PUT, the only kind that honours a condition everywhere."""
_S3 = {
    "max_pool_connections": IN_FLIGHT,  # botocore's 10 would be all that is ever in flight
    "connect_timeout": 5,
    "read_timeout": 30,
    "retries": {"total_max_attempts": 1},  # with s3fs's own: up to 125 attempts, each after a time-out
}
"""For botocore's Config; what fsspec's configuration says of `config_kwargs` wins."""
_NETWORK = {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError", "ResponseParserError"}
"""Classes of botocore, aiohttp and requests for what breaks between here and the store; none of them an OSError."""
_UNREACHED = {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"}
_BUSY = {"SlowDown", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict"}
_MISSING_PLACE = "create it, or name another"
_MISCONFIGURED = (
    "check the credentials and what they allow, the region and the endpoint"
    " (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, or a profile)"
)
_answered: set[str] = set()
_opened: set[Any] = set()
"""Kept for good: a forked process that let go of its parent's would close their connections in a loop of its own."""


def file_system(url: str) -> Any:
    """fsspec's, without its cache of listings: others write to the same lake."""
    options: dict[str, Any] = {"use_listings_cache": False}
    scheme = url.partition("://")[0]
    if scheme in ("s3", "s3a"):
        given = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
        # concurrency within one object costs a HEAD before every GET
        options |= {"max_concurrency": 1, "config_kwargs": _S3 | given}
    try:
        fs = fsspec.core.url_to_fs(url, **options)[0]
    except (ImportError, ValueError) as error:
        raise InputError(
            f"cannot open {url} ({error}): name a folder, or install the fsspec package of that scheme"
        ) from error
    if "config_kwargs" in options:
        fs.retries = 1  # one patience, ours, instead of three nested ones
    _opened.add(fs)
    return fs


def ask(url: str, request: Callable[[], T]) -> T:
    """The answer to an idempotent request about `url`; faults of the network and a busy store are waited out.

    What is missing is `FileNotFoundError`. Messages never hold the store's own text, which may hold what was signed.
    """
    store, first_fault, n = url.partition("://")[2].partition("/")[0], 0.0, 0
    while True:
        try:
            answer = request()
        except Exception as error:
            if not _passes(error):
                _answered.add(store)
                if (explained := _explained(url, error)) is error:
                    raise
                raise explained from error
            first_fault = first_fault or time.monotonic()
            if _answer(error):
                _answered.add(store)
            new = store not in _answered
            if time.monotonic() - first_fault >= (FIRST_PATIENCE if new and _is_a(error, _UNREACHED) else PATIENCE):
                raise _given_up(url, error, new) from error
            wait = min(_LONGEST_WAIT, 0.2 * 2**n) * random.uniform(0.5, 1)
            log.info("%s: %s; trying again in %.1f s", url, _word(error), wait)
            time.sleep(wait)
            n += 1
        else:
            _answered.add(store)
            return answer


def create(fs: Any, path: str, data: bytes) -> bool:
    """One conditional PUT. Servers spell "exists already" differently, so any other refusal is settled by looking.

    False too if an earlier attempt of ours made the object and its answer was lost: the object is whole either way.
    """
    if len(data) >= _SINGLE_PUT:
        raise RunError(f"{path} would be {len(data)} bytes, over the 5 GiB of one PUT: use smaller shards or parts")
    try:
        fs.pipe_file(path, data, mode="create", **({"chunksize": _SINGLE_PUT} if "s3" in fs.protocol else {}))
    except FileExistsError:
        return False
    except OSError as error:
        if _passes(error) or isinstance(error, FileNotFoundError | PermissionError) or not fs.exists(path):
            raise
        return False
    return True


def whole(fs: Any, path: str) -> bytes:
    """All bytes of one object, as many as the store says it has."""
    data: bytes = fs.cat_file(path)
    if len(data) != fs.size(path):
        raise ConnectionError(f"{len(data)} of {fs.size(path)} bytes came")
    return data


def some_ranges(wanted: Mapping[int, tuple[str, int, int]], fs: Any, _: str) -> dict[int, bytes]:
    """Those of the (path, start, stop) that could be had now; raises if none could, or if one never will."""
    paths, starts, stops = (list(column) for column in zip(*wanted.values(), strict=True))
    at_once = {"batch_size": IN_FLIGHT} if fs.async_impl else {}
    answers: Sequence[Any] = fs.cat_ranges(paths, starts, stops, on_error="return", **at_once)
    found = {n: answer for n, answer in zip(wanted, answers, strict=True) if not isinstance(answer, Exception)}
    faults = {n: answer for n, answer in zip(wanted, answers, strict=True) if n not in found}
    found |= {n: b"" for n, fault in faults.items() if _word(fault) in ("InvalidRange", "416")}  # it ends before
    lasting = [fault for n, fault in faults.items() if n not in found and not _passes(fault)]
    if lasting or not found:
        raise (lasting or list(faults.values()))[0]
    return found


def _passes(error: Exception) -> bool:
    """Whether trying again may help."""
    status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status:
        return _word(error) in _BUSY or status in (408, 429) or (status >= 500 and status != 501)
    return isinstance(error, ConnectionError | TimeoutError) or _is_a(error, _NETWORK)


def _explained(url: str, error: Exception) -> Exception:
    """What the caller is told of a refusal: the user's to mend, or a plain answer such as "not there"."""
    word, status = _word(error), _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if word == "NoSuchBucket":
        return InputError(f"{url}: there is no such bucket; {_MISSING_PLACE}")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(url)
    if isinstance(error, GarnerError | FileExistsError | NotADirectoryError):
        return error
    if isinstance(error, PermissionError) or 300 <= status < 500:
        return InputError(f"{url}: the store refuses ({word}); {_MISCONFIGURED}")
    if isinstance(error, ValueError) or _is_a(error, {"BotoCoreError"}):
        return InputError(f"{url}: the store cannot be asked ({word}); {_MISCONFIGURED}")
    return error


def _given_up(url: str, error: Exception, new: bool) -> Exception:
    asked = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    where = f" at {asked.scheme}://{asked.hostname}:{asked.port}" if asked.port else ""
    if new:
        return InputError(f"{url}: nothing answers{where} ({_word(error)}); {_MISCONFIGURED}")
    return RunError(
        f"{url}: the store{where} gave no answer for {PATIENCE:.0f} s ({_word(error)}); "
        "run again when it does, what is whole stays"
    )


def _word(error: Exception) -> str:
    """The store's own word (`SlowDown`), or the exception's class."""
    return str(_answer(error).get("Error", {}).get("Code") or type(error).__name__)


def _answer(error: Exception) -> Mapping[str, Any]:
    """What botocore says of an answer that was an error; empty if there was none."""
    answer = getattr(error.__cause__ or error, "response", None)
    return answer if isinstance(answer, dict) else {}


def _is_a(error: Exception, names: set[str]) -> bool:
    """By name, for the packages that define them may not be installed."""
    return not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)
