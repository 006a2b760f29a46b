"""Alerts: a JSON object posted to a webhook and given to a command. One that fails is logged, and changes nothing."""

import logging
import subprocess
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

import msgspec

from pipeline.schedule import Alerts, Webhook
from storage.value import Value

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds that a webhook has to answer."""
_TRIES = 3
_PAUSE = 1.0
_COMMAND_TIMEOUT = 60.0


class Alert(Value):
    """What is told."""

    text: str
    """One line, for chats that show this field."""
    schedule: str
    status: str
    """`done`, `breached`, `failed` or `stopped`."""
    lake: str
    run: str = ""
    """Name of the run's folder; "" where the night did not begin."""
    covers: tuple[str, ...] = ()
    breaches: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0
    report: str = ""
    """Where the page is."""


def send(table: Alerts, alert: Alert) -> None:
    """Tell whoever wants to know of a night like that."""
    if table.on == "failure" and alert.status == "done":
        return
    data = msgspec.json.encode(alert)
    if table.webhook is not None:
        _post(table.webhook, data)
    if table.command:
        _give(table.command, data)


def _post(webhook: Webhook, data: bytes) -> None:
    """The address is never logged: it is the secret."""
    if not webhook.url.startswith(("https://", "http://")):
        log.warning("no alert was posted: %s holds no http address; set it where garner nightly runs", webhook)
        return
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE * attempt)
        try:
            request = urllib.request.Request(webhook.url, data, {"Content-Type": "application/json"})
            with urllib.request.build_opener(_Straight()).open(request, timeout=TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"it answered {error.code}"
        except (OSError, HTTPException, ValueError) as error:
            problem = type(error).__name__
    log.warning("the alert could not be posted to %s: %s", webhook, problem)


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the alert would be lost on the way, and its address told to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _give(command: tuple[str, ...], data: bytes) -> None:
    try:
        done = subprocess.run(command, input=data, timeout=_COMMAND_TIMEOUT, check=False, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the alert command %s could not be run: %s", command[0], type(error).__name__)
        return
    if done.returncode:
        log.warning("the alert command %s ended with exit code %d", command[0], done.returncode)
