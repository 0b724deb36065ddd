"""The Kubernetes manifests as kustomize would give them out: resources, components and patches put together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.prometheus import PROJECT

KUBERNETES = PROJECT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.37")
"""The oldest that the manifests are for, and the newest that there are schemas of."""

Manifest = dict[str, Any]
_SCHEMAS = Path(__file__).parent / "schemas"
_OTHERS = {
    "ScaledObject": "scaledobject.json",
    "PodMonitor": "podmonitor.json",
    "Kustomization": "kustomization.json",
    "Component": "kustomization.json",
}


def documents(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


def build(directory: Path) -> list[Manifest]:
    """What a kustomization names, in its namespace, and with its labels, components and patches."""
    (kustomization,) = documents(directory / "kustomization.yaml")
    built = list(_resources(directory, kustomization))
    for component in kustomization.get("components", []):
        (parts,) = documents(directory / component / "kustomization.yaml")
        assert parts["kind"] == "Component"
        built += _resources(directory / component, parts)
        for patch in parts.get("patches", []):
            _apply(patch, built)
    for manifest in built:
        _place(manifest, kustomization)
    return built


def _resources(directory: Path, kustomization: Manifest) -> Iterator[Manifest]:
    for name in kustomization.get("resources", []):
        path = directory / name
        assert path.exists(), f"{directory.name} names {name}, which is not there"
        yield from build(path) if path.is_dir() else documents(path)


def _place(manifest: Manifest, kustomization: Manifest) -> None:
    if "namespace" in kustomization and manifest["kind"] != "Namespace":
        manifest["metadata"]["namespace"] = kustomization["namespace"]
    for label in kustomization.get("labels", []):
        manifest["metadata"].setdefault("labels", {}).update(label["pairs"])


def _apply(patch: Manifest, built: list[Manifest]) -> None:
    targets = [one for one in built if {"kind": one["kind"], "name": one["metadata"]["name"]} == patch["target"]]
    assert targets, f"nothing to patch: {patch['target']}"
    for target in targets:
        for operation in yaml.safe_load(patch["patch"]):
            assert operation["op"] == "remove", "the test knows no other operation yet"
            *way, last = operation["path"].strip("/").split("/")
            parent = target
            for step in way:
                parent = parent[step]
            del parent[last]


def check_schema(manifest: Manifest) -> None:
    """Raises where a field is unknown, missing or of another type."""
    schema = _OTHERS.get(manifest["kind"])
    if schema is not None:
        jsonschema.validate(manifest, json.loads((_SCHEMAS / schema).read_text()))
        return
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def selects(selector: Manifest, labels: Manifest) -> bool:
    """Kubernetes' rule, for the operators in use."""
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
