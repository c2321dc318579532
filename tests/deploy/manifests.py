"""What an overlay renders to, asked in the terms of our rules: workloads, pods, selectors, environments."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from servicekit.settings import ServiceSettings
from tests.deploy.kustomize import load_documents, render

__all__ = ["K8S", "OVERLAYS", "SERVICES", "Object", "Overlay", "Workload", "settings_type"]

Object = dict[str, Any]

K8S = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
SERVICES = ("campaign", "dispatcher", "dlr-gateway", "ledger")
_WITH_PODS = {"Deployment", "StatefulSet", "Job"}


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, StatefulSet or Job."""

    item: Object

    @property
    def name(self) -> str:
        """`Deployment ledger`."""
        return f"{self.item['kind']} {self.item['metadata']['name']}"

    @property
    def service(self) -> str:
        """Which of the four it runs."""
        return str(self.labels["app.kubernetes.io/name"])

    @property
    def serves(self) -> bool:
        """Whether it runs until asked to stop."""
        return bool(self.item["kind"] != "Job")

    @property
    def pod(self) -> Object:
        """Its pods' spec."""
        return cast("Object", self.item["spec"]["template"]["spec"])

    @property
    def labels(self) -> dict[str, str]:
        """Its pods' labels."""
        return cast("dict[str, str]", self.item["spec"]["template"]["metadata"]["labels"])

    @property
    def main(self) -> Object:
        """The container that is the service."""
        (container,) = self.pod["containers"]
        return cast("Object", container)

    @property
    def containers(self) -> list[Object]:
        """The service's and those that run before it."""
        return [*self.pod.get("initContainers", []), self.main]


@dataclass(frozen=True, slots=True)
class Overlay:
    """A rendered overlay, with the keys its Secrets are to have."""

    objects: list[Object]
    secrets: dict[str, dict[str, str]]

    @classmethod
    def load(cls, name: str) -> Overlay:
        """Render it."""
        folder = K8S / "overlays" / name
        documents = load_documents(folder / "secrets.example.yaml")
        return cls(render(folder), {item["metadata"]["name"]: item["stringData"] for item in documents})

    def kind(self, *kinds: str) -> list[Object]:
        """All objects of these kinds."""
        return [item for item in self.objects if item["kind"] in kinds]

    @property
    def workloads(self) -> list[Workload]:
        """Everything that makes pods."""
        return [Workload(item) for item in self.objects if item["kind"] in _WITH_PODS]

    @property
    def servers(self) -> list[Workload]:
        """The Deployments and StatefulSets."""
        return [workload for workload in self.workloads if workload.serves]

    def server(self, service: str) -> Workload:
        """The one that runs a service."""
        (found,) = (workload for workload in self.servers if workload.service == service)
        return found

    def selected(self, labels: dict[str, str]) -> list[Workload]:
        """The workloads whose pods have all these labels."""
        return [workload for workload in self.workloads if labels.items() <= workload.labels.items()]

    def environment(self, container: Object) -> dict[str, str]:
        """All variables a container starts with; those from the cluster itself have a placeholder."""
        environment: dict[str, str] = {}
        for source in container.get("envFrom", []):
            environment.update(self._source(source))
        for variable in container.get("env", []):
            environment[variable["name"]] = variable.get("value", "placeholder")
        return environment

    def policies_of(self, workload: Workload) -> Iterator[Object]:
        """The specs of the network policies that apply to a workload's pods."""
        for policy in self.kind("NetworkPolicy"):
            if policy["spec"]["podSelector"]["matchLabels"].items() <= workload.labels.items():
                yield policy["spec"]

    def _source(self, source: Object) -> dict[str, str]:
        ((kind, reference),) = source.items()
        if kind == "secretRef":
            return self.secrets[reference["name"]]
        assert kind == "configMapRef"
        (found,) = (item for item in self.kind("ConfigMap") if item["metadata"]["name"] == reference["name"])
        return cast("dict[str, str]", found["data"])


def settings_type(service: str) -> type[ServiceSettings]:
    """The class a service reads its environment with."""
    package = f"bulksms_{service.replace('-', '_')}"
    return cast("type[ServiceSettings]", importlib.import_module(f"{package}.settings").Settings)
