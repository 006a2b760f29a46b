"""The fields that the manifests use, as closed JSON schemas: a field that is not here, or of another type, is refused.

Types are those of KubeRay 1.7.0's CRDs (ray.io/v1) and of Kubernetes 1.31, the first with a stable `podFailurePolicy`.
Add a field here when a manifest needs it, from the CRD.
"""

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
QUANTITIES: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"},
}


def closed(*required: str, **fields: Schema) -> Schema:
    """An object with these fields and no others."""
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": fields}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*words: str) -> Schema:
    return {"enum": list(words)}


METADATA = closed(name=STRING, generateName=STRING, namespace=STRING, labels=STRINGS, annotations=STRINGS)
CONTAINED = closed(
    "allowPrivilegeEscalation",
    "capabilities",
    allowPrivilegeEscalation=BOOLEAN,
    capabilities=closed("drop", drop=many(STRING)),
)
RESOURCES = closed("requests", "limits", requests=QUANTITIES, limits=QUANTITIES)
CONTAINER = closed(
    "name",
    "image",
    "securityContext",
    "resources",
    name=STRING,
    image=STRING,
    command=many(STRING),
    env=many(closed("name", "value", name=STRING, value=STRING)),
    securityContext=CONTAINED,
    resources=RESOURCES,
    ports=many(closed("name", "containerPort", name=STRING, containerPort=COUNT)),
    volumeMounts=many(closed("name", "mountPath", name=STRING, mountPath=STRING, readOnly=BOOLEAN)),
)
POD = closed(
    "metadata",
    "spec",
    metadata=closed("labels", labels=STRINGS),
    spec=closed(
        "containers",
        "securityContext",
        restartPolicy=one_of("Never", "OnFailure", "Always"),
        serviceAccountName=STRING,
        automountServiceAccountToken=BOOLEAN,
        terminationGracePeriodSeconds=COUNT,
        securityContext=closed(
            "runAsNonRoot",
            "seccompProfile",
            runAsNonRoot=BOOLEAN,
            runAsUser=COUNT,
            runAsGroup=COUNT,
            fsGroup=COUNT,
            seccompProfile=closed("type", type=one_of("RuntimeDefault")),
        ),
        nodeSelector=STRINGS,
        tolerations=many(
            closed(key=STRING, operator=one_of("Exists", "Equal"), effect=one_of("NoSchedule", "NoExecute"))
        ),
        containers=many(CONTAINER),
        volumes=many(
            closed(
                "name",
                name=STRING,
                emptyDir=closed("medium", "sizeLimit", medium=one_of("Memory"), sizeLimit=STRING),
                configMap=closed("name", name=STRING),
            )
        ),
    ),
)
RAY_CLUSTER = closed(
    "rayVersion",
    "authOptions",
    "headGroupSpec",
    "workerGroupSpecs",
    rayVersion=STRING,
    authOptions=closed("mode", mode=one_of("token")),
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=closed(
        version=one_of("v1", "v2"), idleTimeoutSeconds=COUNT, resources=RESOURCES, securityContext=CONTAINED
    ),
    headGroupSpec=closed("rayStartParams", "template", rayStartParams=STRINGS, template=POD),
    workerGroupSpecs=many(
        closed(
            "groupName",
            "template",
            groupName=STRING,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=STRINGS,
            labels=STRINGS,
            template=POD,
        )
    ),
)
RAY_JOB = closed(
    "entrypoint",
    entrypoint=STRING,
    clusterSelector=closed("ray.io/cluster", **{"ray.io/cluster": STRING}),
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=BOOLEAN,
    ttlSecondsAfterFinished=COUNT,
    submitterPodTemplate=POD,
    rayClusterSpec=RAY_CLUSTER,
)
CRON_JOB = closed(
    "schedule",
    "concurrencyPolicy",
    "startingDeadlineSeconds",
    "jobTemplate",
    schedule=STRING,
    timeZone=STRING,
    concurrencyPolicy=one_of("Forbid"),
    startingDeadlineSeconds=COUNT,
    successfulJobsHistoryLimit=COUNT,
    failedJobsHistoryLimit=COUNT,
    jobTemplate=closed(
        "spec",
        spec=closed(
            "template",
            "podFailurePolicy",
            backoffLimit=COUNT,
            activeDeadlineSeconds=COUNT,
            podFailurePolicy=closed(
                "rules",
                rules=many(
                    closed(
                        "action",
                        action=one_of("FailJob", "Ignore", "Count"),
                        onExitCodes=closed(
                            "operator",
                            "values",
                            containerName=STRING,
                            operator=one_of("In", "NotIn"),
                            values=many(COUNT),
                        ),
                        onPodConditions=many(closed("type", type=STRING, status=one_of("True", "False", "Unknown"))),
                    )
                ),
            ),
            template=POD,
        ),
    ),
)
_LABELS = closed("matchLabels", matchLabels=STRINGS)
NETWORK_POLICY = closed(
    "podSelector",
    "policyTypes",
    "ingress",
    podSelector=_LABELS,
    policyTypes=many(one_of("Ingress", "Egress")),
    ingress=many(
        closed(
            "from",
            **{"from": many(closed(podSelector=_LABELS, namespaceSelector=_LABELS))},
            ports=many(closed("protocol", "port", protocol=one_of("TCP"), port=COUNT)),
        )
    ),
)


def _object(version: str, kind: str, **rest: Schema) -> Schema:
    fixed = {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": METADATA}
    return closed("apiVersion", "kind", "metadata", *rest, **fixed, **rest)


KINDS = {
    "Namespace": _object("v1", "Namespace"),
    "ServiceAccount": _object("v1", "ServiceAccount"),
    "ConfigMap": _object("v1", "ConfigMap", data=STRINGS),
    "NetworkPolicy": _object("networking.k8s.io/v1", "NetworkPolicy", spec=NETWORK_POLICY),
    "CronJob": _object("batch/v1", "CronJob", spec=CRON_JOB),
    "RayCluster": _object("ray.io/v1", "RayCluster", spec=RAY_CLUSTER),
    "RayJob": _object("ray.io/v1", "RayJob", spec=RAY_JOB),
    "RayCronJob": _object(
        "ray.io/v1",
        "RayCronJob",
        spec=closed("schedule", "jobTemplate", schedule=STRING, timeZone=STRING, suspend=BOOLEAN, jobTemplate=RAY_JOB),
    ),
}
