"""The overlays render, to what Kubernetes accepts and to what kustomize itself makes of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.kustomize import KustomizeError, load_documents, render
from tests.deploy.manifests import K8S, OVERLAYS, Overlay
from tests.deploy.merging import MergeError, merge

OLDEST = "1.30"  # deploy/README.md names it
FOLDERS = ["base", *(f"overlays/{name}" for name in OVERLAYS)]


def by_identity(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def test_there_is_a_production_overlay() -> None:
    assert "production" in OVERLAYS


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_every_object_is_valid_for_the_oldest_and_the_newest_kubernetes(overlay: Overlay, version: str) -> None:
    for item in overlay.objects:
        kubernetes_validate.validate(item, version, strict=True)


def test_the_example_secrets_are_valid() -> None:
    for name in OVERLAYS:
        for item in load_documents(K8S / "overlays" / name / "secrets.example.yaml"):
            kubernetes_validate.validate(item, OLDEST, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_our_renderer_and_kustomize_agree(folder: str) -> None:
    if kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    elif kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl is installed")
    printed = subprocess.run([*command, str(K8S / folder)], check=True, capture_output=True, text=True, timeout=60)
    theirs = by_identity(list(yaml.safe_load_all(printed.stdout)))
    ours = by_identity(render(K8S / folder))
    assert ours.keys() == theirs.keys()
    for identity, item in theirs.items():
        assert ours[identity] == item


def test_every_file_below_k8s_is_used() -> None:
    used = {"README.md", "secrets.example.yaml", "kustomization.yaml"}
    named = "\n".join(file.read_text(encoding="utf-8") for file in K8S.rglob("kustomization.yaml"))
    for file in K8S.rglob("*.*"):
        assert file.name in used or file.name in named, file


def write(folder: Path, **files: str) -> Path:
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    for name, text in files.items():
        content = head + text if name == "kustomization" else text
        (folder / f"{name}.yaml").write_text(content, encoding="utf-8")
    return folder


SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: one}\nspec: {}\n"


@pytest.mark.parametrize(
    ("kustomization", "problem"),
    [
        ("namePrefix: x-\n", "unknown fields"),
        ("resources: [one.yaml, one.yaml]\n", "there twice"),
        ("resources: [one.yaml]\npatches: [{patch: '[]'}]\n", "unknown fields"),
        ("resources: [one.yaml]\npatches: [{path: one.yaml, target: {kind: Job}}]\n", "changes nothing"),
        ("resources: [one.yaml]\nimages: [{name: a, newName: b, newTag: c}]\n", "no container"),
        ("resources: [one.yaml]\nresources: []\n", "stands twice"),
        ("configMapGenerator: [{name: a, behavior: merge, envs: []}]\n", "0 objects are ConfigMap a"),
        ("configMapGenerator: [{name: a, envs: [../b.env]}]\n", "outside"),
        ("configMapGenerator: [{name: a, envs: [one.yaml]}]\n", "not VARIABLE=value"),
    ],
)
def test_what_the_renderer_does_not_know_is_an_error(tmp_path: Path, kustomization: str, problem: str) -> None:
    with pytest.raises(KustomizeError, match=problem):
        render(write(tmp_path, kustomization=kustomization, one=SERVICE))


def test_a_patch_merges_named_items_and_replaces_plain_lists() -> None:
    original = {"containers": [{"name": "a", "args": ["x", "y"], "image": "i"}, {"name": "b"}], "kept": 1, "gone": 2}
    patch = {"containers": [{"name": "b", "tty": True}, {"name": "a", "args": ["z"]}], "gone": None}
    assert merge(original, patch) == {
        "containers": [{"name": "b", "tty": True}, {"name": "a", "args": ["z"], "image": "i"}],
        "kept": 1,
    }


@pytest.mark.parametrize("patch", [{"$patch": "delete"}, {"envFrom": [{}]}, {"env": [{"value": "unnamed"}]}])
def test_a_patch_that_cannot_be_merged_is_an_error(patch: dict[str, Any]) -> None:
    with pytest.raises(MergeError):
        merge({}, patch)
