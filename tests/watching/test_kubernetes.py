"""The Kubernetes manifests: valid by the schemas, pointing at each other rightly, and such that each service starts."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from services.ingest.settings import IngestSettings
from shared.settings import Settings, read_settings
from shared.stopping import BOUND_S
from tests.prometheus import promtool
from tests.watching.manifests import KUBERNETES, Manifest, build, check_schema, documents, selects
from tests.watching.test_alerts import default_port, unknown_series

SERVICES = ("ingest", "planner", "mover", "recorder")
FULL = build(KUBERNETES / "full")
SECRETS = {
    secret["metadata"]["name"]: secret["stringData"] for secret in documents(KUBERNETES / "secrets.example.yaml")
}
FILES = sorted(KUBERNETES.rglob("*.yaml"))


def of_kind(kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in FULL if one["kind"] == kind}


WORKLOADS = of_kind("Deployment") | of_kind("Job")


def pod_of(name: str) -> Manifest:
    template: Manifest = WORKLOADS[name]["spec"]["template"]
    return template


def container_of(name: str) -> Manifest:
    (container,) = pod_of(name)["spec"]["containers"]
    return dict(container)


def settings_of(service: str) -> type[Settings]:
    kind = getattr(import_module(f"services.{service}.settings"), f"{service.capitalize()}Settings")
    assert isinstance(kind, type)
    assert issubclass(kind, Settings)
    return kind


def relative(path: Path) -> str:
    return str(path.relative_to(KUBERNETES))


# --- by the schemas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_file_is_valid_by_the_schemas(path: Path) -> None:
    for manifest in documents(path):
        check_schema(manifest)


def test_the_schemas_refuse_what_is_wrong() -> None:
    """Else the test above could not fail."""
    for kind, field in (("Deployment", "replica"), ("ScaledObject", "maxReplicas"), ("PodMonitor", "endpoints")):
        manifest = next(one for one in FULL if one["kind"] == kind)
        wrong = manifest | {"spec": manifest["spec"] | {field: 2}}
        with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
            check_schema(wrong)


def test_every_file_is_part_of_it() -> None:
    """A manifest that no kustomization names is never applied. Only the example of secrets is left out."""
    named = {path for path in FILES if path.name == "kustomization.yaml"}
    for kustomization in [*named]:
        (parts,) = documents(kustomization)
        named |= {(kustomization.parent / name).resolve() for name in parts.get("resources", [])}
    assert {relative(path) for path in set(FILES) - named} == {"secrets.example.yaml"}


def test_all_is_in_one_namespace_and_no_name_is_given_twice() -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in FULL]
    assert len(set(names)) == len(names)
    for built in (FULL, build(KUBERNETES / "base")):
        placed = [one for one in built if one["kind"] != "Namespace"]
        assert {one["metadata"].get("namespace") for one in placed} == {"reshelve"}


# --- pointing at each other -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_selectors_find_their_pods_and_no_others(name: str) -> None:
    labels = {service: pod_of(service)["metadata"]["labels"] for service in WORKLOADS}
    deployment, budget = WORKLOADS[name]["spec"], of_kind("PodDisruptionBudget")[name]["spec"]
    (spread,) = pod_of(name)["spec"]["topologySpreadConstraints"]
    for selector in (deployment["selector"], budget["selector"], spread["labelSelector"]):
        assert [other for other in labels if selects(selector, labels[other])] == [name]


def test_the_service_leads_to_ingest_s_port() -> None:
    (service,) = of_kind("Service").values()
    selector = {"matchLabels": service["spec"]["selector"]}
    assert [name for name in WORKLOADS if selects(selector, pod_of(name)["metadata"]["labels"])] == ["ingest"]
    ports = {port["name"]: port["containerPort"] for port in container_of("ingest")["ports"]}
    assert ports[service["spec"]["ports"][0]["targetPort"]] == IngestSettings.http_port


@pytest.mark.parametrize("name", WORKLOADS)
def test_secrets_claims_and_settings_that_a_pod_asks_for_are_there(name: str) -> None:
    container, pod = container_of(name), pod_of(name)["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounted.keys() == volumes.keys()
    assert volumes["accounts"]["secret"]["secretName"] == name
    files = {f"{mounted['accounts']}/{key}" for key in SECRETS[name]}
    asked = {entry["value"] for entry in container["env"] if entry["name"].endswith("_FILE")}
    assert asked == files
    if "levels" in volumes:
        assert volumes["levels"]["persistentVolumeClaim"]["claimName"] in of_kind("PersistentVolumeClaim")
    for source in container.get("envFrom", []):
        assert source["configMapRef"]["name"] in of_kind("ConfigMap")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_takes_its_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the pod would have them, with the example's secrets: each variable is one the service knows, and is sound."""
    (config,) = of_kind("ConfigMap").values()
    container = container_of(name)
    given = config["data"] | {entry["name"]: entry["value"] for entry in container["env"]}
    for key, value in SECRETS[name].items():
        (tmp_path / key).write_text(value)
    for variable, value in given.items():
        known = variable.removeprefix("RESHELVE_").lower()
        fields = {field.name for field in dataclasses.fields(settings_of(name))}
        assert known in fields or known.removesuffix("_file") in fields, f"{name} knows no {variable}"
        monkeypatch.setenv(variable, value.replace("/run/accounts", str(tmp_path)))
    settings = read_settings(settings_of(name))
    assert settings.metrics_host == "0.0.0.0"
    assert container["command"] == ["python", "-m", f"services.{name}"]


# --- what each pod must be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_may_do_as_little_as_can_be(name: str) -> None:
    pod, container = pod_of(name)["spec"], container_of(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    (accounts,) = [mount for mount in container["volumeMounts"] if mount["name"] == "accounts"]
    assert accounts["readOnly"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_probed_on_the_port_that_it_listens_on(name: str) -> None:
    container = container_of(name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["metrics"] == default_port(name)
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        asked = container[probe]["httpGet"]
        assert asked["path"] == path
        assert asked["port"] in ports
    # Restarted because Redis is away, all would come back at once, again and again.
    assert {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe")} == {"metrics"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_the_time_to_stop_that_it_may_take(name: str) -> None:
    pod, container = pod_of(name)["spec"], container_of(name)
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > before + BOUND_S + 3
    assert of_kind("PodDisruptionBudget")[name]["spec"]["maxUnavailable"] == 1


# --- who may speak to whom --------------------------------------------------------------------------------------------


def allowed(way: str, name: str) -> set[Any]:
    """Ports that network policies open for a workload's pods; a direction that none closes is open to all."""
    labels = pod_of(name)["metadata"]["labels"]
    policies = [one["spec"] for one in of_kind("NetworkPolicy").values() if selects(one["spec"]["podSelector"], labels)]
    assert any(way.capitalize() in policy["policyTypes"] for policy in policies), f"{way} of {name} is open to all"
    return {port["port"] for policy in policies for rule in policy.get(way, []) for port in rule["ports"]}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_reaches_and_is_reached_where_it_must(name: str) -> None:
    servers = {3306} if name == "migrate" else {3306, 6379}
    assert allowed("egress", name) == servers | {53}
    doors = {"migrate": set(), "ingest": {"http", "metrics"}}.get(name, {"metrics"})
    assert allowed("ingress", name) == doors


def test_a_pod_that_nobody_thought_of_reaches_nothing() -> None:
    policy = of_kind("NetworkPolicy")["default-deny"]["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


# --- scaling and watching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", of_kind("ScaledObject").values(), ids=lambda one: str(one["spec"]["scaleTargetRef"]))
def test_replicas_follow_a_backlog_that_there_is(scaled: Manifest, tmp_path: Path) -> None:
    spec = scaled["spec"]
    assert "replicas" not in WORKLOADS[spec["scaleTargetRef"]["name"]]["spec"], "KEDA and the manifest would disagree"
    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    (trigger,) = spec["triggers"]
    query = trigger["metadata"]["query"]
    assert unknown_series(query) == set()
    # Two replicas that show the same backlog must not double it; the other streams are others' work.
    streams = {"mover": ("moves", "retires"), "planner": ("views",)}[spec["scaleTargetRef"]["name"]]
    case = {
        "interval": "1m",
        "input_series": [
            {"series": f'reshelve_stream_backlog{{stream="{stream}",instance="{instance}"}}', "values": "100x5"}
            for stream in ("views", "moves", "placed", "retires")
            for instance in ("a", "b")
        ],
        "promql_expr_test": [
            {"expr": query, "eval_time": "3m", "exp_samples": [{"labels": "{}", "value": 100 * len(streams)}]}
        ],
    }
    path = tmp_path / "scaling_test.yml"
    path.write_text(yaml.safe_dump({"tests": [case]}))
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pod_monitor_finds_every_service_by_its_name() -> None:
    (monitor,) = of_kind("PodMonitor").values()
    selector = monitor["spec"]["selector"]
    found = [name for name in WORKLOADS if selects(selector, pod_of(name)["metadata"]["labels"])]
    assert sorted(found) == sorted(SERVICES)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    # The alerts ask for `service`.
    (relabelling,) = endpoint["relabelings"]
    assert relabelling["targetLabel"] == "service"
    assert relabelling["sourceLabels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
