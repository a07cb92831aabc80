"""The chart: linted, rendered with several sets of values, checked against Kubernetes' schemas, bad values refused."""

import dataclasses
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy import generate
from stream.kafka.admin import topics
from stream.settings import Settings, from_environment
from training.cli import cli as training

CHART = generate.CHART
PRODUCTION = CHART / "values-production.yaml"
KUBERNETES = ("1.34", "1.28")
OWN_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""Of the Prometheus operator: Kubernetes itself has no schema for them."""

EVERYTHING = {
    "image": {"tag": "1.2.3", "pullSecrets": [{"name": "registry"}], "pullPolicy": "Always"},
    "replicas": 2,
    "settings": {"commit_bytes": 8388608, "decision_sample": 0.05, "timezone": "Europe/Berlin", "currency": "USD"},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraEnvFrom": [{"secretRef": {"name": "kafka-password"}}],
    "persistence": {"storageClass": "fast"},
    "serviceAccount": {"annotations": {"example.com/role": "offers"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "growth"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "high",
    "podDisruptionBudget": {"maxUnavailable": "25%"},
    "training": {"enabled": True, "args": ["--horizon=2h", "--quick"]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "networkPolicy": {"enabled": True, "kafkaPorts": [9093], "metricsFromNamespaces": [{"name": "monitoring"}]},
}
NOTHING = {
    "persistence": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "serviceAccount": {"create": False},
    "topics": {"job": "none"},
    "topologySpread": False,
}
SETS: dict[str, dict[str, Any] | Path] = {
    "default": {},
    "production": PRODUCTION,
    "everything": EVERYTHING,
    "nothing": NOTHING,
}


def run_helm(helm: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *arguments], capture_output=True, text=True, check=False)


def values_file(values: dict[str, Any] | Path, folder: Path) -> Path:
    if isinstance(values, Path):
        return values
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def render(
    helm: Path, values: Path, release: str = "offerstream", version: str = KUBERNETES[0]
) -> list[dict[str, Any]]:
    done = run_helm(helm, "template", release, CHART, "--kube-version", version, "-f", values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pod templates of all kinds."""
    found = []
    for document in documents:
        spec = document.get("spec", {})
        templates = (spec.get("template"), spec.get("jobTemplate", {}).get("spec", {}).get("template"))
        found += [template for template in templates if template]
    return found


@pytest.fixture(params=list(SETS))
def values(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return values_file(SETS[request.param], tmp_path)


def test_lint_strict(helm: Path, values: Path) -> None:
    done = run_helm(helm, "lint", "--strict", CHART, "-f", values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_document_is_valid(helm: Path, values: Path, version: str) -> None:
    documents = render(helm, values, version=version)
    assert len(documents) >= 3
    for document in documents:
        if document["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_refuses_a_typo(helm: Path, tmp_path: Path) -> None:
    documents = render(helm, values_file({}, tmp_path))
    workers = next(document for document in documents if document["kind"] == "StatefulSet")
    workers["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(workers, KUBERNETES[0], strict=True)


def test_names_stay_legal_for_long_releases(helm: Path, tmp_path: Path) -> None:
    release = "a-release-whose-name-is-as-long-as-helm-allows-it-53c"
    assert len(release) == 53
    for document in render(helm, values_file(EVERYTHING, tmp_path), release):
        # A pod of the StatefulSet gets a suffix, a job of the CronJob 11 characters; both must fit into a label.
        assert len(document["metadata"]["name"]) <= 63 - 11, document["kind"]


def test_pods_are_locked_down(helm: Path, values: Path) -> None:
    for pod in pods(render(helm, values)):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        # Kubernetes would add OFFERSTREAM_PORT and the like, and unknown settings are refused.
        assert spec["enableServiceLinks"] is False
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]


def test_the_worker_reads_what_the_chart_gives(helm: Path, values: Path) -> None:
    """The rendered environment goes through the worker's own settings, by the ConfigMap and by the topics job alike."""
    documents = render(helm, values)
    environment = next(
        d for d in documents if d["kind"] == "ConfigMap" and not d["metadata"]["name"].endswith("-dashboard")
    )["data"]
    given = yaml.safe_load(values.read_text()).get("settings", {})
    settings = from_environment(environment | {"OFFERSTREAM_INSTANCE_ID": "offerstream-0"})
    for name, value in given.items():
        assert getattr(settings, name) == value, name
    assert settings.admin_host == "0.0.0.0"
    for job in (d for d in documents if d["kind"] == "Job"):
        container = job["spec"]["template"]["spec"]["containers"][0]
        spelt_out = {e["name"]: e["value"] for e in container["env"] if e["name"] in environment}
        assert spelt_out == environment


def test_a_worker_keeps_name_volume_and_time_to_leave(helm: Path, tmp_path: Path) -> None:
    documents = render(helm, values_file({}, tmp_path))
    workers = next(document for document in documents if document["kind"] == "StatefulSet")["spec"]
    container = workers["template"]["spec"]["containers"][0]
    instance = next(e for e in container["env"] if e["name"] == "OFFERSTREAM_INSTANCE_ID")
    assert instance["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert [claim["metadata"]["name"] for claim in workers["volumeClaimTemplates"]] == ["data"]
    config = next(document for document in documents if document["kind"] == "ConfigMap")["data"]
    assert mounts["data"] == config["OFFERSTREAM_DATA_DIR"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    admin_port = int(config["OFFERSTREAM_ADMIN_PORT"])
    assert container["ports"] == [{"name": "admin", "containerPort": admin_port}]
    assert workers["template"]["spec"]["terminationGracePeriodSeconds"] * 1000 > Settings().drain_timeout_ms
    # A worker that stalls is restarted by the probe after stall_ms plus this.
    probe = container["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 120


def test_production_keeps_three_copies(helm: Path) -> None:
    documents = render(helm, PRODUCTION)
    config = next(
        document for document in documents if document["kind"] == "ConfigMap" and "KAFKA_BOOTSTRAP" in document["data"]
    )
    assert config["data"]["OFFERSTREAM_REPLICATION"] == "3"
    kinds = {document["kind"] for document in documents}
    assert {"PodDisruptionBudget", "NetworkPolicy", "CronJob", "ServiceMonitor", "PrometheusRule"} <= kinds


def test_selectors_find_the_workers_and_only_them(helm: Path, tmp_path: Path) -> None:
    documents = render(helm, values_file(EVERYTHING, tmp_path))
    by_kind = {document["kind"]: document for document in documents}
    labels = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["metadata"]["labels"] for pod in pods(documents)
    }
    assert set(labels) == {"worker", "topics", "training"}
    for kind, selector in (
        ("StatefulSet", by_kind["StatefulSet"]["spec"]["selector"]["matchLabels"]),
        ("Service", by_kind["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
    ):
        found = {component for component, has in labels.items() if selector.items() <= has.items()}
        assert found == {"worker"}, kind
    monitor = by_kind["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= by_kind["Service"]["metadata"]["labels"].items()
    # The alerts' job label.
    assert by_kind["Service"]["metadata"]["labels"][monitor["jobLabel"]] == "offerstream"


def test_the_training_job_says_what_its_command_line_understands(helm: Path, tmp_path: Path) -> None:
    """Both are parsed by the real command line, and not run."""
    job = next(d for d in render(helm, values_file(EVERYTHING, tmp_path)) if d["kind"] == "CronJob")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    mounts = {volume["name"] for volume in pod["volumes"]}
    steps = [*pod["initContainers"], *pod["containers"]]
    assert [step["args"][0] for step in steps] == ["run", "publish"]
    for step in steps:
        assert {mount["name"] for mount in step["volumeMounts"]} <= mounts
        arguments = step["args"][1:]
        command = training.commands[step["args"][0]]
        tmp_path.joinpath("model.onnx").touch()
        context = command.make_context(
            step["name"], [argument.replace("/model", str(tmp_path)) for argument in arguments]
        )
        if step["name"] == "run":
            assert context.params["events"] == "kafka:9092"
            assert context.params["quick"] is True


def test_the_topics_job_says_what_its_command_line_understands(helm: Path, tmp_path: Path) -> None:
    for how in ("create", "check"):
        job = next(d for d in render(helm, values_file({"topics": {"job": how}}, tmp_path)) if d["kind"] == "Job")
        assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["topics", how]
        assert how in topics.commands


BAD = [
    ("replica: 2", "replica"),
    ("replicas: 0", "replicas"),
    ("replicas: 1.5", "replicas"),
    ("kafka: {bootstrap: kafka}", "bootstrap"),
    ("kafka: {bootstrap: 'http://kafka:9092'}", "bootstrap"),
    ("settings: {partitons: 4}", "partitons"),
    ("settings: {partitions: 0}", "partitions"),
    ("settings: {partitions: '4'}", "partitions"),
    ("settings: {admin_port: 1}", "admin_port"),
    ("settings: {decision_sample: 1.5}", "decision_sample"),
    ("image: {tag: latest}", "tag"),
    ("persistence: {size: 20}", "size"),
    ("persistence: {size: 0Gi}", "size"),
    ("resources: {limits: {memory: null}}", "limits"),
    ("resources: {requests: {cpu: lots, memory: 1Gi}, limits: {memory: 1Gi}}", "cpu"),
    ("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds"),
    ("topics: {job: delete}", "job"),
    ("training: {schedule: daily}", "schedule"),
    ("networkPolicy: {kafkaPorts: []}", "kafkaPorts"),
    ("podDisruptionBudget: {maxUnavailable: 0}", "maxUnavailable"),
    ("extraEnv: [{value: x}]", "extraEnv"),
]


@pytest.mark.parametrize(("text", "named"), BAD)
def test_bad_values_are_refused_by_name(helm: Path, tmp_path: Path, text: str, named: str) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(text)
    done = run_helm(helm, "template", "x", CHART, "--kube-version", KUBERNETES[0], "-f", bad)
    assert done.returncode != 0
    assert "schema" in done.stderr
    assert named in done.stderr


def test_more_workers_than_partitions_are_refused(helm: Path, tmp_path: Path) -> None:
    bad = values_file({"replicas": 5, "settings": {"partitions": 4}}, tmp_path)
    done = run_helm(helm, "template", "x", CHART, "--kube-version", KUBERNETES[0], "-f", bad)
    assert done.returncode != 0
    assert "replicas (5) is more than settings.partitions (4)" in done.stderr


def leaves(values: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if isinstance(values, dict) and values:
        return set(itertools.chain.from_iterable(leaves(value, (*path, key)) for key, value in values.items()))
    return {path}


def test_values_and_schema_name_the_same_keys() -> None:
    schema = json.loads(generate.SCHEMA.read_text())

    def known(part: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if "properties" not in part:
            return {path}
        return set(itertools.chain.from_iterable(known(sub, (*path, key)) for key, sub in part["properties"].items()))

    def without_settings(paths: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
        free = {"requests", "limits", "labels"}  # maps of the user's own keys
        cut = set()
        for path in paths:
            end = next((i + 1 for i, key in enumerate(path) if key in free), len(path))
            cut.add(path[:end])
        return {path for path in cut if path[0] not in {"settings", "global"}}

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert without_settings(leaves(values)) == without_settings(known(schema))


def test_settings_of_the_schema_are_the_workers() -> None:
    assert generate.SCHEMA.read_text() == generate.schema_text(), "run: python -m deploy.generate"
    names = {field.name for field in dataclasses.fields(Settings)}
    listed = set(json.loads(generate.SCHEMA.read_text())["properties"]["settings"]["properties"])
    assert listed | generate.CHART_SETS == names
    assert not listed & generate.CHART_SETS
