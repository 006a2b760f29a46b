"""The manifests are good, offline, and what would break them is refused."""

import re

import pytest
import yaml

from pipeline.recipe import read
from tests.deploy.manifests import faults
from tests.deploy.pins import DEPLOY, IMAGE, ROOT, TORCH

FOLDER = DEPLOY / "k8s"
FILES = {path.name: path.read_text() for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml"}
BY_HAND = {"rayjob.yaml", "raycronjob.yaml"}
"""What starts a run as soon as it is applied, and what is alpha."""


def test_the_manifests_are_good():
    assert faults(list(FILES.values())) == []


def test_kustomize_applies_all_but_what_is_applied_by_hand():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "namespace", "resources", "images"}
    assert set(kustomization["resources"]) == set(FILES) - BY_HAND
    (image,) = kustomization["images"]
    assert f"{image['name']}:{image['newTag']}" == IMAGE


def test_alpha_is_called_alpha():
    assert FILES["raycronjob.yaml"].startswith("# ALPHA")


def test_every_recipe_in_the_config_map_is_one(tmp_path):
    for name, text in yaml.safe_load(FILES["recipe.yaml"])["data"].items():
        path = tmp_path / name
        path.write_text(text)
        assert read(str(path), []).recipe.lake == "s3://team/lake"


def test_the_image_runs_garner_as_the_manifests_want_it():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    base = next(line for line in lines if line.startswith("FROM"))
    assert re.fullmatch(r"FROM python:3\.1[1-9]-slim-\w+", base)
    assert f"RUN pip install --no-cache-dir {TORCH}" in lines
    assert "USER 1000:1000" in lines
    copied = {line.split()[1] for line in lines if line.startswith("COPY")}
    assert {"pipeline", "workers", "storage", "jobs", "pyproject.toml"} <= copied
    assert all((ROOT / name).exists() for line in lines if line.startswith("COPY") for name in line.split()[1:-1])


MISTAKES = {
    "a field misspelt": ("access.yaml", "policyTypes", "policyType"),
    "a field of a CRD misspelt": ("raycluster.yaml", "rayVersion", "rayVersoin"),
    "a field deep in a CRD misspelt": ("raycluster.yaml", "maxReplicas", "maxReplica"),
    "a word for a number": ("raycluster.yaml", "maxReplicas: 8", "maxReplicas: eight"),
    "a number for a word": ("raycluster.yaml", 'num-cpus: "0"', "num-cpus: 0"),
    "a quantity that is no word": ("raycluster.yaml", 'nvidia.com/gpu: "1"', "nvidia.com/gpu: 1"),
    "another kind": ("nightly.yaml", "kind: CronJob", "kind: Cronjob"),
    "another version of the API": ("raycluster.yaml", "ray.io/v1", "ray.io/v1alpha1"),
    "no authentication": ("raycluster.yaml", re.search(r".*authOptions.*\n", FILES["raycluster.yaml"])[0], ""),
    "authentication turned off": ("raycluster.yaml", "mode: token", "mode: disabled"),
    "the dashboard on every interface": (
        "raycluster.yaml",
        'num-cpus: "0"',
        'num-cpus: "0", dashboard-host: 0.0.0.0',
    ),
    "a public service": ("raycluster.yaml", "  headGroupSpec:\n", "  headGroupSpec:\n    serviceType: LoadBalancer\n"),
    "another Ray": ("raycluster.yaml", "rayVersion: 2.60.0", "rayVersion: 2.59.0"),
    "a head that takes tasks": ("raycluster.yaml", 'num-cpus: "0"', 'num-cpus: "2"'),
    "GPUs kept for nothing": ("raycluster.yaml", "minReplicas: 0", "minReplicas: 1"),
    "an image without a version": ("nightly.yaml", IMAGE, IMAGE.replace(":0.1.0", ":latest")),
    "an image of another version": ("rayjob.yaml", IMAGE, IMAGE.replace(":0.1.0", ":0.0.9")),
    "root": ("nightly.yaml", "runAsNonRoot: true", "runAsNonRoot: false"),
    "privileges": ("nightly.yaml", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
    "capabilities": ("raycluster.yaml", "drop: [ALL]", "drop: [NET_RAW]"),
    "no security context": ("nightly.yaml", "              securityContext:\n", "              securityContxt:\n"),
    "a pod that says nothing of its needs": (
        "nightly.yaml",
        'requests: { cpu: "6", memory: 24Gi }',
        'requests: { cpu: "6" }',
    ),
    "keys in the environment": (
        "nightly.yaml",
        "{ name: RAY_AUTH_MODE, value: token }",
        "{ name: RAY_AUTH_MODE, value: token }\n                - { name: S3_SECRET, value: x }",
    ),
    "a key in a recipe": ("recipe.yaml", 'lake = "', 'key = "AKIAABCDEFGHIJKLMNOP"\n    lake = "'),
    "a token for Kubernetes where none is needed": ("nightly.yaml", "automountServiceAccountToken: false", ""),
    "little shared memory": ("raycluster.yaml", "mountPath: /dev/shm", "mountPath: /scratch"),
    "shared memory on a disk": ("nightly.yaml", "medium: Memory", 'medium: ""'),
    "a volume that is not there": ("nightly.yaml", "- name: recipes", "- name: recipe"),
    "a recipe that is not there": ("nightly.yaml", "/etc/garner/nightly.toml", "/etc/garner/night.toml"),
    "a policy that lets all in": ("access.yaml", re.search(r" +ports: .*8265.*\n", FILES["access.yaml"])[0], ""),
    "a policy over other pods": ("access.yaml", "{ app.kubernetes.io/part-of: garner }", "{ app: garner }"),
    "a pod that no policy covers": ("nightly.yaml", "app.kubernetes.io/part-of: garner", "app: garner"),
    "nights that overlap": ("nightly.yaml", "concurrencyPolicy: Forbid", "concurrencyPolicy: Allow"),
    "Forbid left out": ("nightly.yaml", "  concurrencyPolicy: Forbid\n", ""),
    "no starting deadline": ("nightly.yaml", re.search(r" +startingDeadline.*\n", FILES["nightly.yaml"])[0], ""),
    "no limit to the history": ("nightly.yaml", "  failedJobsHistoryLimit: 7\n", ""),
    "a schedule that never fires": ("nightly.yaml", '"0 2 * * *"', '"0 2 31 2 *"'),
    "a schedule that is none": ("raycronjob.yaml", '"0 2 * * *"', '"0 25 * * *"'),
    "a time zone that is none": ("nightly.yaml", "Etc/UTC", "Europe/Atlantis"),
    "a wrong recipe tried again": ("nightly.yaml", "values: [2]", "values: [1]"),
    "exit codes of another container": ("nightly.yaml", "containerName: garner", "containerName: ray"),
    "pods that restart themselves": ("nightly.yaml", "restartPolicy: Never", "restartPolicy: OnFailure"),
    "another command": ("nightly.yaml", "[garner, nightly,", "[garner, run,"),
    "a policy that RayCronJob lacks": ("raycronjob.yaml", "  suspend: false", "  concurrencyPolicy: Forbid"),
    "no second attempt": ("rayjob.yaml", "  backoffLimit: 2\n", ""),
    "no deadline": ("rayjob.yaml", "  activeDeadlineSeconds: 86400\n", ""),
    "a cluster that stays": ("rayjob.yaml", "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false"),
    "a cluster other than the standing one": ("rayjob.yaml", "maxReplicas: 8", "maxReplicas: 9"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_refused(mistake):
    name, right, wrong = MISTAKES[mistake]
    assert right in FILES[name]
    assert faults(list((FILES | {name: FILES[name].replace(right, wrong)}).values()))
