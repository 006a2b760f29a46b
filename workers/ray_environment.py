"""What Ray reads from the environment when it is imported; to be decided before that."""

import os
import secrets


def decide(address: str) -> None:
    """No usage statistics; a Ray of this process's own gets token authentication with a token of its own.

    Left alone, a local Ray would write a token file into the home folder; a cluster's mode is the user's to set.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
