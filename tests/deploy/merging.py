"""Strategic merge of one Kubernetes object with a patch, for the lists our patches touch; anything else is an error."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

__all__ = ["MergeError", "merge"]

Mapping = dict[str, Any]

# What identifies an item, as in the x-kubernetes-list-map-keys of the Kubernetes API. A list that is not here is only
# replaced when it holds no mappings.
_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}


class MergeError(Exception):
    """The patch uses what this merge does not know."""


def merge(original: Mapping, patch: Mapping) -> Mapping:
    """Return the original with the patch merged into it; None in the patch deletes."""
    merged = deepcopy(original)
    for key, value in patch.items():
        if key.startswith("$"):
            raise MergeError(f"directives are not supported: {key}")
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key, {})
            if not isinstance(below, dict):
                raise MergeError(f"{key} is no mapping in the original")
            merged[key] = merge(below, value)
        elif isinstance(value, list):
            merged[key] = _merge_lists(key, merged.get(key, []), value)
        else:
            merged[key] = value
    return merged


def _merge_lists(name: str, original: list[Any], patch: list[Any]) -> list[Any]:
    if not any(isinstance(item, dict) for item in patch):
        return list(patch)
    if name not in _KEYS:
        raise MergeError(f"unknown how items of {name} are merged: add it to _KEYS, after a look at the Kubernetes API")
    known = {_identity(name, item): item for item in original}
    patched = {_identity(name, item): merge(known.pop(_identity(name, item), {}), item) for item in patch}
    if len(patched) != len(patch):
        raise MergeError(f"two items of {name} in the patch are the same")
    return [*patched.values(), *known.values()]


def _identity(name: str, item: Any) -> tuple[Any, ...]:
    keys = _KEYS[name]
    if not isinstance(item, dict) or keys[0] not in item:
        raise MergeError(f"an item of {name} lacks its {keys[0]}")
    return tuple(item.get(key, "TCP" if key == "protocol" else None) for key in keys)
