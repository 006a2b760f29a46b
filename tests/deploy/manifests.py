"""What is wrong with the Kubernetes manifests: their fields, then what garner asks of them."""

import re
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import jsonschema
import yaml
from cronsim import CronSim

from tests.deploy.fields import KINDS
from tests.deploy.pins import IMAGE, RAY, SECRET

_OURS = {"app.kubernetes.io/part-of": "garner"}


def faults(texts: list[str]) -> list[str]:
    """Every fault found in these files, each in a line; none if they are good together."""
    objects = [one for text in texts for one in yaml.safe_load_all(text)]
    found = [f"looks like a key: {hit[0]}" for text in texts for hit in SECRET.finditer(text)]
    found += [f"{word} is in a file" for word in ("0.0.0.0", ":latest") if any(word in text for text in texts)]
    found += [fault for one in objects for fault in _fields(one)]
    if found:
        return found
    of = {one["kind"]: one for one in objects}
    return [
        *(fault for one in objects for path, pod in _pods(one, one["kind"]) for fault in _pod(path, pod)),
        *_ray(of["RayCluster"]["spec"]),
        *_job(of["RayJob"]["spec"], of["RayCluster"]["spec"]),
        *_night(of["CronJob"]["spec"]),
        *_schedule(of["CronJob"]["spec"]),
        *_schedule(of["RayCronJob"]["spec"]),
        *_network(of["NetworkPolicy"]["spec"]),
        *_mounted(objects, of["ConfigMap"]),
    ]


def _fields(one: dict) -> list[str]:
    if one.get("kind") not in KINDS:
        return [f"no such kind: {one.get('kind')}"]
    errors = jsonschema.Draft202012Validator(KINDS[one["kind"]]).iter_errors(one)
    return [f"{one['kind']}{error.json_path[1:]}: {error.message}" for error in errors]


def _pods(node: object, path: str) -> Iterator[tuple[str, dict]]:
    """Every pod template in it."""
    if isinstance(node, dict):
        if "containers" in node.get("spec", {}):
            yield path, node
        for key, value in node.items():
            yield from _pods(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _pods(value, path)


def _pod(path: str, pod: dict) -> list[str]:
    spec, found = pod["spec"], []
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    if pod["metadata"]["labels"] != _OURS:
        found.append(f"{path}: the network policy does not cover it")
    if spec["securityContext"]["runAsNonRoot"] is not True or spec["securityContext"].get("runAsUser") != 1000:
        found.append(f"{path}: runs as root, or as a user whom the image lacks")
    if "headGroupSpec" not in path and spec.get("automountServiceAccountToken") is not False:
        found.append(f"{path}: may talk to Kubernetes, for nothing")
    for container in spec["containers"]:
        found += [f"{path}.{container['name']}: {fault}" for fault in _container(container, volumes)]
    return found


def _container(container: dict, volumes: dict) -> Iterator[str]:
    if container["image"] != IMAGE:
        yield f"the image is not {IMAGE}"
    if container["securityContext"] != {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}:
        yield "may gain privileges"
    resources = container["resources"]
    if not {"cpu", "memory"} <= set(resources["requests"]) or "memory" not in resources["limits"]:
        yield "does not say what it needs"
    for variable in container.get("env", ()):
        if re.search("KEY|SECRET|PASSWORD|CREDENTIAL|TOKEN", variable["name"]):
            yield f"{variable['name']} is a secret in the open"
    mounts = {mount["mountPath"]: volumes.get(mount["name"]) for mount in container.get("volumeMounts", ())}
    if None in mounts.values():
        yield "mounts a volume that is not there"
    if container["name"] != "ray-job-submitter" and "emptyDir" not in (mounts.get("/dev/shm") or {}):
        yield "has 64 MB of /dev/shm, too little for Ray"


def _ray(cluster: dict) -> Iterator[str]:
    if cluster["rayVersion"] != RAY:
        yield f"rayVersion is not {RAY}"
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "the head takes tasks"
    if not cluster.get("enableInTreeAutoscaling") or any(group["minReplicas"] for group in cluster["workerGroupSpecs"]):
        yield "workers that do nothing are kept"


def _job(job: dict, cluster: dict) -> Iterator[str]:
    if job.get("rayClusterSpec") != cluster:
        yield "the RayJob's cluster is not the one of raycluster.yaml"
    if "clusterSelector" in job or not job.get("backoffLimit"):
        yield "a RayJob that fails is not tried again"
    if not job.get("activeDeadlineSeconds") or not job.get("shutdownAfterJobFinishes"):
        yield "a RayJob may hold its GPUs for ever"


def _night(cron: dict) -> Iterator[str]:
    job = cron["jobTemplate"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    final = [
        code
        for rule in job["podFailurePolicy"]["rules"]
        if rule["action"] == "FailJob" and rule["onExitCodes"]["containerName"] == container["name"]
        for code in rule["onExitCodes"]["values"]
    ]
    if final != [2]:
        yield "a wrong recipe is tried again"
    if job["template"]["spec"].get("restartPolicy") != "Never":
        yield "podFailurePolicy asks for restartPolicy Never"
    if container["command"][:2] != ["garner", "nightly"]:
        yield "the night runs something else"
    if {"name": "RAY_AUTH_MODE", "value": "token"} not in container.get("env", ()):
        yield "Ray in the pod does not decide to ask for tokens"
    if not {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= set(cron) or "activeDeadlineSeconds" not in job:
        yield "nights pile up"


def _schedule(cron: dict) -> Iterator[str]:
    try:
        next(CronSim(cron["schedule"], datetime(2026, 1, 1, tzinfo=ZoneInfo(cron["timeZone"]))))
    except Exception as error:
        yield f"never fires: {error!r}"


def _network(policy: dict) -> Iterator[str]:
    if policy["podSelector"]["matchLabels"] != _OURS or "Ingress" not in policy["policyTypes"]:
        yield "the network policy covers nothing"
    for rule in policy["ingress"]:
        from_within = all(peer.get("podSelector", {}).get("matchLabels") == _OURS for peer in rule["from"])
        if not from_within and {port["port"] for port in rule.get("ports", ())} not in ({8265}, {8080}):
            yield "others reach more than the dashboard or the metrics"


def _mounted(objects: list[dict], recipes: dict) -> Iterator[str]:
    for path in sorted(set(re.findall(r"/etc/garner/([\w.-]+)", str(objects)))):
        if path not in recipes["data"]:
            yield f"/etc/garner/{path} is in no ConfigMap"
