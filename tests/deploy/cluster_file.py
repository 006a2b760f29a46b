"""What is wrong with a file for Ray's cluster launcher: Ray's own checks, then what they miss."""

import re
import subprocess

import yaml

from tests.deploy.pins import RAY, SECRET, TORCH

_PROVIDER = {
    "aws": {
        "type",
        "region",
        "availability_zone",
        "cache_stopped_nodes",
        "use_internal_ips",
        "security_group",
        "key_pair",
    },
    "local": {"type", "head_ip", "worker_ips", "external_head_ip"},
}
"""Keys that Ray 2.60 reads; its schema lets any other pass unread."""
_MADE = ("~/venv/bin/", "~/venv", "~/.bashrc", "~/ray_bootstrap_config.yaml")
"""Paths that the commands or the launcher make."""


def local_variant(text: str) -> str:
    """The file with its commented lines for machines of one's own in place of those for AWS."""
    head, rest = text.split("# aws: from here\n")
    rest = rest.split("# aws: to here\n")[1]
    marker, rest = rest.split("\n", 1)
    assert marker.startswith("# local: uncomment from here"), marker
    block, tail = rest.split("# local: to here\n")
    return head + "".join(line.removeprefix("# ") for line in block.splitlines(keepends=True)) + tail


def faults(text: str) -> list[str]:
    """Every fault found, each in a line; none if the file is good."""
    config = yaml.safe_load(text)
    try:
        prepared = _prepare(config)
    except (Exception, SystemExit) as error:
        return [f"Ray refuses it: {error}"]
    return [
        *(f"{word} is in the file" for word in ("0.0.0.0", "aws_credentials") if word in str(prepared)),
        *(f"looks like a key: {found[0]}" for found in SECRET.finditer(text)),
        *_provider(config["provider"]),
        *_types(prepared),
        *(_aws(prepared) if config["provider"]["type"] == "aws" else ()),
        *_commands(prepared),
        *_starts(prepared),
        *_token(prepared),
    ]


def _prepare(config: dict) -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


def _provider(provider: dict) -> list[str]:
    return [f"provider.{key} means nothing" for key in sorted(set(provider) - _PROVIDER[provider["type"]])]


def _types(config: dict) -> list[str]:
    found = [
        f"{name}.max_workers {kind['max_workers']} is over the cluster's {config['max_workers']}"
        for name, kind in config["available_node_types"].items()
        if kind["max_workers"] > config["max_workers"]
    ]
    return found + (["idle machines are never given back"] if config["idle_timeout_minutes"] > 60 else [])


def _aws(config: dict) -> list[str]:
    found, head = [], config["head_node_type"]
    for name, kind in config["available_node_types"].items():
        machine = kind["node_config"]
        found += [f"{name} lacks {key}" for key in ("IamInstanceProfile", "ImageId") if key not in machine]
        if machine.get("MetadataOptions", {}).get("HttpTokens") != "required":
            found.append(f"{name}'s role can be read through IMDSv1")
        if name != head and kind["min_workers"]:
            found.append(f"{name} keeps machines that do nothing")
        if name != head and machine.get("IamInstanceProfile") == _machine(config).get("IamInstanceProfile"):
            found.append(f"{name} may start machines, as the head")
    if "InstanceMarketOptions" in _machine(config):
        found.append("the head is a spot machine")
    if config["available_node_types"][head]["resources"].get("CPU") != 0:
        found.append("the head takes tasks")
    if not any("boto3" in command and "/venv/bin/pip" in command for command in config["head_setup_commands"]):
        found.append("the head's Ray cannot start machines: its environment lacks boto3")
    return found


def _machine(config: dict) -> dict:
    return config["available_node_types"][config["head_node_type"]]["node_config"]


def _commands(config: dict) -> list[str]:
    home = f"/home/{config['auth']['ssh_user']}/"
    known = tuple(mount.replace(home, "~/") for mount in config["file_mounts"])
    setup = [*config["head_setup_commands"], *config["worker_setup_commands"]]
    found = []
    for command in {*setup, *config["head_start_ray_commands"], *config["worker_start_ray_commands"]}:
        if subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode:
            found.append(f"not a command: {command}")
        for path in re.findall(r"(?<![\w/])(?:~|\$HOME|/home)/[\w./]+", command):
            short = path.replace("$HOME/", "~/").replace(home, "~/")
            if not short.startswith(known) and not short.startswith(_MADE):
                found.append(f"{path} is mounted by nothing: {command}")
    if not any(f"{TORCH} " in f"{command} " for command in setup):
        found.append(f"{TORCH}, as in pyproject.toml, is not installed")
    if not any("garner[s3]" in command for command in setup):
        found.append("garner is not installed")
    found += [
        f"another Ray is installed: {command}" for command in setup if re.search(r"\bray(\[|-|=|\b.*whl)", command)
    ]
    return found


def _starts(config: dict) -> list[str]:
    from ray.scripts.scripts import start

    options = {option for parameter in start.params for option in parameter.opts}
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    found = []
    for name, command in (("head", head), ("worker", worker)):
        if "RAY_AUTH_MODE=token " not in command:
            found.append(f"the {name} does not decide to ask for tokens")
        if "ulimit -n" not in command:
            found.append(f"the {name} may run out of file descriptors")
        used = re.findall(r"(--[a-z-]+)", command)
        found += [f"ray start of Ray {RAY} has no option {option}" for option in used if option not in options]
    if "--dashboard-host=127.0.0.1" not in head:
        found.append("the dashboard is not on loopback alone")
    if "--num-cpus=0" not in head:
        found.append("the head takes tasks")
    port = re.search(r"--port=(\d+)", head)
    if not port or f"--address=$RAY_HEAD_IP:{port[1]}" not in worker:
        found.append("workers knock at another port than the head's")
    return found


def _token(config: dict) -> list[str]:
    there = f"/home/{config['auth']['ssh_user']}/.ray/auth_token"
    found = [] if there in config["file_mounts"] else [f"no token is mounted at {there}"]
    if "chmod 600 ~/.ray/auth_token" not in config["head_setup_commands"]:
        found.append("others on the machine can read the token")
    return found
