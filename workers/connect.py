"""Joins a Ray cluster, or starts a Ray for this process; what keeps a cluster from being joined, in plain words."""

import logging
import os

import grpc  # type: ignore[import-untyped]
import ray

from storage.errors import InputError
from workers.ray_environment import find_token

_PATIENCE = 5
"""Seconds in which a cluster must answer."""
_QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""What every client of Ray asks first; the question is an empty message."""


def start(address: str) -> None:
    """Connect to Ray, or start one for this process, quiet and without a dashboard.

    Authentication must have been decided by `workers.ray_environment.decide` before Ray was imported.
    """
    if ray.is_initialized():
        return
    if address != "local":
        _join(address)
        return
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _join(address: str) -> None:
    if address != "auto" and os.environ.get("RAY_USE_TLS", "0") != "1":
        knock(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise InputError(
            f'pool.address = "{address}": Ray could not join that cluster ({error}); this process must run on one of '
            "its machines, with its versions of Ray and Python; `garner submit` does that for you"
        ) from error


def knock(address: str) -> None:
    """Ask the head for its name: it says within milliseconds what `ray.init` finds out in twenty seconds, or never."""
    token = find_token() if os.environ.get("RAY_AUTH_MODE") == "token" else None
    metadata = [("authorization", f"Bearer {token.secret}")] if token else []
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(_QUESTION)(b"", timeout=_PATIENCE, metadata=metadata)
        except grpc.RpcError as error:
            raise InputError(f'pool.address = "{address}": {_refusal(error, token.source if token else "")}') from error


def _refusal(error: grpc.RpcError, source: str) -> str:
    code = error.code()
    if code == grpc.StatusCode.UNAUTHENTICATED:
        sent = f"another token than the one in {source}" if source else "a token, and none was sent"
        return (
            f"the cluster is up and asks for {sent}: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's, and "
            "RAY_AUTH_MODE=token"
        )
    return (
        f"something listens there but does not answer as a Ray head does ({code.name.lower()}): give the port of the "
        "head itself (6379 unless it was started with another), not of its dashboard"
    )
