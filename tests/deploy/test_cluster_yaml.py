"""`ray_cluster.yaml` is good, for AWS and for machines of one's own, and what would break it is refused."""

import re

import pytest
import ray
import yaml

from tests.deploy.cluster_file import faults, local_variant
from tests.deploy.pins import RAY, ROOT

TEXT = (ROOT / "ray_cluster.yaml").read_text()
HEAD_START = TEXT[TEXT.index("head_start_ray_commands") : TEXT.index("worker_start_ray_commands")]


def test_the_file_is_checked_by_the_ray_that_the_cluster_will_run():
    assert ray.__version__ == RAY, f"the checks read Ray's own code; see what changed since {RAY}"


def test_the_file_for_aws_is_good():
    assert faults(TEXT) == []


def test_the_commented_variant_for_machines_of_ones_own_is_good_when_uncommented():
    text = local_variant(TEXT)
    assert yaml.safe_load(text)["provider"]["type"] == "local"
    assert faults(text) == []


def test_a_local_variant_without_its_workers_is_refused():
    assert faults(re.sub(r"  worker_ips: .*\n", "", local_variant(TEXT)))


def test_spot_machines_go_first_and_cost_nothing_when_idle():
    kinds = yaml.safe_load(TEXT)["available_node_types"]
    assert kinds["gpu_spot"]["priority"] > kinds["gpu_ondemand"].get("priority", 0)
    assert kinds["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in kinds["gpu_ondemand"]["node_config"]
    assert kinds["gpu_ondemand"]["max_workers"] == 0


def test_the_file_stays_readable():
    assert len(TEXT.splitlines()) <= 100


MISTAKES = {
    "an unknown key": ("idle_timeout_minutes:", "idle_timeout_minuts:"),
    "an unknown key of a machine type": ("    min_workers: 0\n", "    min_worker: 0\n"),
    "a provider key misspelt": ("cache_stopped_nodes", "cache_stoped_nodes"),
    "another provider": ("type: aws", "type: awz"),
    "a head type that is not there": ("head_node_type: head", "head_node_type: boss"),
    "a type's maximum over the cluster's": ("max_workers: 2 ", "max_workers: 20 "),
    "machines kept for nothing": ("min_workers: 0", "min_workers: 1"),
    "half a CPU": ("CPU: 0", "CPU: 0.5"),
    "a head that takes tasks": ("CPU: 0", "CPU: 2"),
    "a head that takes tasks by its start command": (" --num-cpus=0", ""),
    "a head on the spot market": (
        "InstanceType: m6i.large",
        "InstanceType: m6i.large\n      InstanceMarketOptions: { MarketType: spot }",
    ),
    "workers that may start machines": ("Name: garner-lake", "Name: garner-head"),
    "no role": ("      IamInstanceProfile: { Name: garner-head }\n", ""),
    "no image": (re.search(r" +ImageId: .*\n", TEXT)[0], ""),
    "metadata without a session": ("HttpTokens: required", "HttpTokens: optional"),
    "keys in place of a role": (
        "  region: us-east-1",
        "  region: us-east-1\n  aws_credentials: { aws_access_key_id: x }",
    ),
    "a key": ("# The head takes", "# AKIAABCDEFGHIJKLMNOP\n# The head takes"),
    "a token in the file": ("RAY_AUTH_MODE=token RAY_USAGE", "RAY_AUTH_TOKEN=abc RAY_AUTH_MODE=token RAY_USAGE"),
    "the dashboard on every interface": ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    "the dashboard where Ray likes": ("--dashboard-host=127.0.0.1 ", ""),
    "Ray's own start command": (HEAD_START, ""),
    "no token at the head or the worker": ("RAY_AUTH_MODE=token RAY_USAGE", "RAY_USAGE"),
    "tokens turned off": ("RAY_AUTH_MODE=token RAY_USAGE", "RAY_AUTH_MODE=disabled RAY_USAGE"),
    "a token that others can read": ("  - chmod 600 ~/.ray/auth_token\n", ""),
    "a token mounted for nobody": ('"/home/ubuntu/.ray/auth_token"', '"/home/ubuntu/.ray/token"'),
    "another user's home": ("ssh_user: ubuntu", "ssh_user: ec2-user"),
    "a folder that is mounted elsewhere": ('"/home/ubuntu/garner": "."', '"/home/ubuntu/project": "."'),
    "another torch": ("torch==2.13.0", "torch==2.12.0"),
    "a torch without a pin": ("torch==2.13.0", "torch"),
    "another Ray": ("boto3 --editable", "boto3 ray==2.59.0 --editable"),
    "an autoscaler that cannot start machines": ("boto3 ", ""),
    "another port": ("--port=6379", "--port=6380"),
    "an option that ray start lacks": ("--metrics-export-port", "--metrics-port"),
    "a quote that a comment cuts off": ("RAY_AUTH_MODE=token' >>", "RAY_AUTH_MODE=token  # garner' >>"),
    "too few file descriptors": ("    ulimit -n 65536;\n", ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_refused(mistake):
    right, wrong = MISTAKES[mistake]
    assert right in TEXT
    assert faults(TEXT.replace(right, wrong))
