"""What Ray reads from the environment when it is imported; to be decided before that."""

import logging
import os
import secrets
import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from storage.errors import InputError

log = logging.getLogger(__name__)

MODES = ("token", "disabled")
PATIENCE = 5
"""Seconds in which a cluster must answer."""


@dataclass(frozen=True)
class Token:
    """What a cluster asks for; never printed."""

    secret: str = field(repr=False)
    source: str
    """Where it was found, for messages."""


def decide(address: str) -> None:
    """No usage statistics, and whether Ray asks for a token, said explicitly: its own default differs by entry point.

    A Ray of this process's own gets a token of its own, random and kept in memory alone. A cluster's mode is the
    user's to set; where nothing is said, a token is used if there is one.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    mode = asked_mode()
    if address == "local":
        mode = mode or "token"
        if mode == "token" and not os.environ.get("RAY_AUTH_TOKEN"):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    else:
        mode = _cluster_mode(address, mode)
        _check_reachable(address)
    os.environ["RAY_AUTH_MODE"] = mode


def asked_mode() -> str | None:
    """What the user says in RAY_AUTH_MODE; None if nothing."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode not in ("", *MODES):
        raise InputError(f"RAY_AUTH_MODE is {mode!r}: set it to {' or '.join(MODES)}, or leave it out")
    return mode or None


def find_token() -> Token | None:
    """The user's token, looked for where Ray looks, in its order."""
    if secret := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Token(secret, "RAY_AUTH_TOKEN")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        secret = ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {file} cannot be read ({type(error).__name__}): mend it") from error
    if named and not secret:
        raise InputError(
            f"RAY_AUTH_TOKEN_PATH names {file}, which holds no token: write it there, or unset the variable"
        )
    return Token(secret, str(file)) if secret else None


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own and no other's."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cluster_mode(address: str, mode: str | None) -> str:
    token = find_token() if mode != "disabled" else None
    if mode == "token" and token is None:
        raise InputError(
            "RAY_AUTH_MODE is token, and there is no token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        )
    if mode is None and token is None and not is_loopback(_host(address)):
        log.warning(
            "Ray at %s is joined without a token: if it lets garner in, anyone who reaches its ports can run code "
            "there; start it with RAY_AUTH_MODE=token",
            address,
        )
    return mode or ("token" if token else "disabled")


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    if address == "auto":
        return
    try:
        host, port = _host(address), urlsplit(f"//{address}").port
    except ValueError:
        port = None
    if "://" in address or port is None:
        raise InputError(f'pool.address = "{address}": write "local", "auto", or host:port (a cluster\'s is host:6379)')
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise InputError(
            f'pool.address = "{address}": nothing answers there ({error}); is the cluster up, and its port open to you?'
        ) from error


def _host(address: str) -> str:
    return urlsplit(address if "://" in address else f"//{address}").hostname or ""
