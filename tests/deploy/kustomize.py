"""A renderer of the part of kustomize that deploy/k8s uses; what it does not know is an error, never ignored."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.merging import merge

__all__ = ["KustomizeError", "load_documents", "render"]

Object = dict[str, Any]

_FILE = "kustomization.yaml"
_KINDS = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}
_CLUSTER_WIDE = {"Namespace"}
_NAMESPACED = {
    "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service",
    "StatefulSet",
}  # fmt: skip
_WITH_PODS = {"Deployment", "Job", "StatefulSet"}
_HASHED = "ConfigMap made by a generator"  # a key of the object itself until its name gets the hash


class KustomizeError(Exception):
    """The files are wrong, or use what this renderer does not know."""


def render(folder: Path) -> list[Object]:
    """Return the objects `kubectl kustomize <folder>` prints, in no particular order."""
    return _with_hashes(_accumulate(folder, []))


def load_documents(file: Path) -> list[Object]:
    """Return the YAML documents of a file; a key that stands twice in a mapping is an error."""
    with file.open(encoding="utf-8") as text:
        documents = list(yaml.load_all(text, Loader=_StrictLoader))
    if not all(isinstance(document, dict) for document in documents):
        raise KustomizeError(f"{file} holds an empty document")
    return documents


def _accumulate(folder: Path, before: list[Object]) -> list[Object]:
    """Follow one kustomization.yaml in kustomize's own order; a component starts from what was there before it."""
    (kustomization,) = load_documents(folder / _FILE)
    kind = kustomization.pop("kind", None)
    if kustomization.pop("apiVersion", None) != _KINDS.get(str(kind)):
        raise KustomizeError(f"{folder / _FILE}: apiVersion and kind do not fit")
    objects = list(before)
    for resource in kustomization.pop("resources", []):
        path = folder / resource
        _add(objects, _accumulate(path, []) if path.is_dir() else load_documents(path))
    for component in kustomization.pop("components", []):
        objects = _accumulate(folder / component, objects)
    for generator in kustomization.pop("configMapGenerator", []):
        _generate(objects, generator, folder)
    for patch in kustomization.pop("patches", []):
        _patch(objects, patch, folder)
    if (namespace := kustomization.pop("namespace", None)) is not None:
        _set_namespace(objects, namespace)
    for label in kustomization.pop("labels", []):
        _label(objects, label)
    for image in kustomization.pop("images", []):
        _set_image(objects, image)
    if kustomization:
        raise KustomizeError(f"{folder / _FILE}: unknown fields {sorted(kustomization)}")
    return objects


def _add(objects: list[Object], more: Iterable[Object]) -> None:
    for new in more:
        if any(_identity(new) == _identity(old) for old in objects):
            raise KustomizeError(f"{_identity(new)} is there twice")
        objects.append(new)


def _generate(objects: list[Object], generator: Object, folder: Path) -> None:
    _only(generator, "name", "behavior", "envs")
    data: dict[str, str] = {}
    for name in generator["envs"]:
        for key, value in _variables(_inside(folder, name)):
            if key in data:
                raise KustomizeError(f"{name}: {key} is set twice in ConfigMap {generator['name']}")
            data[key] = value
    match generator.get("behavior", "create"):
        case "create":
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
            _add(objects, [{**made, _HASHED: True}])
        case "merge":
            _one(objects, "ConfigMap", generator["name"])["data"].update(data)
        case unknown:
            raise KustomizeError(f"unknown behavior {unknown}")


def _variables(file: Path) -> Iterable[tuple[str, str]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, separator, value = line.partition("=")
        if not separator or not re.fullmatch(r"[A-Z][A-Z0-9_]*", key):
            raise KustomizeError(f"{file}: not VARIABLE=value: {line!r}")
        yield key, value


def _patch(objects: list[Object], entry: Object, folder: Path) -> None:
    _only(entry, "path", "target")
    (patch,) = load_documents(_inside(folder, entry["path"]))
    if (target := entry.get("target")) is not None:
        _only(target, "kind", "name")
        chosen = [o for o in objects if all(re.fullmatch(v, _field(o, k)) for k, v in target.items())]
    else:
        chosen = [_one(objects, patch["kind"], patch["metadata"]["name"])]
    if not chosen:
        raise KustomizeError(f"{entry['path']} changes nothing")
    changes = {key: value for key, value in patch.items() if key not in {"apiVersion", "kind"}}
    changes["metadata"] = {key: value for key, value in patch["metadata"].items() if key != "name"}
    for chosen_object in chosen:
        chosen_object.update(merge(chosen_object, changes))


def _set_namespace(objects: list[Object], namespace: str) -> None:
    for item in objects:
        if item["kind"] in _NAMESPACED:
            item["metadata"]["namespace"] = namespace
        elif item["kind"] not in _CLUSTER_WIDE:
            raise KustomizeError(f"unknown whether a {item['kind']} has a namespace")
        elif item["kind"] == "Namespace":
            item["metadata"]["name"] = namespace


def _label(objects: list[Object], label: Object) -> None:
    _only(label, "pairs", "includeSelectors", "includeTemplates")
    selectors = label.get("includeSelectors", False)
    for item in objects:
        _update(item["metadata"], "labels", label["pairs"])
        if item["kind"] in _WITH_PODS and (selectors or label.get("includeTemplates", False)):
            _update(item["spec"]["template"].setdefault("metadata", {}), "labels", label["pairs"])
            for claim in item["spec"].get("volumeClaimTemplates", []):
                _update(claim["metadata"], "labels", label["pairs"])
        if not selectors:
            continue
        match item["kind"]:
            case "Deployment" | "StatefulSet":
                _update(item["spec"].setdefault("selector", {}), "matchLabels", label["pairs"])
            case "Service":
                _update(item["spec"], "selector", label["pairs"])
            case "Job" | "HorizontalPodAutoscaler":
                pass  # a Job's selector is the cluster's own, and an autoscaler has none
            case kind:
                raise KustomizeError(f"unknown where a {kind} selects by labels")


def _set_image(objects: list[Object], image: Object) -> None:
    _only(image, "name", "newName", "newTag")
    containers = [c for item in objects for c in _containers(item) if c["image"] == image["name"]]
    if not containers:
        raise KustomizeError(f"no container has the image {image['name']}")
    for container in containers:
        container["image"] = f"{image['newName']}:{image['newTag']}"


def _with_hashes(objects: list[Object]) -> list[Object]:
    names = {o["metadata"]["name"]: o for o in objects if o.pop(_HASHED, False)}
    for name, item in names.items():
        item["metadata"]["name"] = f"{name}-{_hash(item)}"
    for item in objects:
        for container in _containers(item):
            for source in container.get("envFrom", []):
                if (reference := source.get("configMapRef")) and reference["name"] in names:
                    reference["name"] = names[reference["name"]]["metadata"]["name"]
    return objects


def _hash(config_map: Object) -> str:
    """Return kustomize's own suffix: ten digits of a SHA-256 over Go's JSON, without vowels and look-alikes."""
    # The empty name is kustomize's: it looks for a field called "metadata/name", which nothing has.
    content = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    digits = hashlib.sha256(text.encode()).hexdigest()[:10]
    return digits.translate(str.maketrans("013ae", "ghkmt"))


def _containers(item: Object) -> list[Object]:
    if item["kind"] not in _WITH_PODS:
        return []
    pod = item["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def _one(objects: list[Object], kind: str, name: str) -> Object:
    found = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    if len(found) != 1:
        raise KustomizeError(f"{len(found)} objects are {kind} {name}")
    return found[0]


def _identity(item: Object) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def _field(item: Object, name: str) -> str:
    return str(item["kind"] if name == "kind" else item["metadata"][name])


def _update(parent: Object, key: str, values: dict[str, str]) -> None:
    parent[key] = {**parent.get(key, {}), **values}


def _only(mapping: Object, *known: str) -> None:
    if unknown := mapping.keys() - set(known):
        raise KustomizeError(f"unknown fields {sorted(unknown)}")


def _inside(folder: Path, name: str) -> Path:
    # kustomize itself reads patches and variables only from below the kustomization.
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise KustomizeError(f"{name} lies outside {folder}")
    return path


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise KustomizeError(f"a key stands twice {node.start_mark}")
        return super().construct_mapping(node, deep)
