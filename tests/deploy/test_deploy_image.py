"""The Dockerfile is lint-free, and its own instructions make an image that migrates a database and passes its check."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.deploy.dockerfile import Image, build
from tests.deploy.manifests import SERVICES

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"


@pytest.fixture(scope="module")
def distributions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_docker_distributions", DOCKER / "distributions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    return build(DOCKER / "Dockerfile", ROOT, folder, {"SERVICE": "ledger", "VERSION": "1.2.3"})


def test_the_dockerfile_has_no_lint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", "--no-color", DOCKER / "Dockerfile"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_built_from_all_its_service_depends_on(distributions: ModuleType, service: str) -> None:
    plan = distributions.plan(ROOT, service)
    assert plan.package == f"bulksms_{service.replace('-', '_')}"
    assert {"./protos", "./libs/servicekit", f"./services/{service}"} <= set(plan.own)
    assert sum(folder.startswith("./services/") for folder in plan.own) == 1
    assert not set(plan.own) & {"./libs/devstack", "./libs/client"}
    for folder in plan.own:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
        foreign = {line for line in project["project"].get("dependencies", []) if not line.startswith("bulksms-")}
        assert foreign <= set(plan.third_party)
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for requirement in (*plan.third_party, *plan.build):
        assert re.split(r"[\[<>=~!;]", requirement)[0].lower() in pinned, f"{requirement} is not in constraints.txt"


def test_an_unknown_service_is_refused_with_the_names_there_are(distributions: ModuleType) -> None:
    with pytest.raises(SystemExit, match="one of campaign, dispatcher, dlr-gateway, ledger"):
        distributions.plan(ROOT, "servicekit")


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.xdist_group("image")
class TestImage:
    def test_runs_as_a_number_that_is_not_root_and_serves_by_default(self, image: Image) -> None:
        assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", image.said["USER"])
        assert image.said["CMD"] == '["serve"]'
        assert image.said["STOPSIGNAL"] == "SIGTERM"
        assert image.labels["org.opencontainers.image.title"] == "bulksms-ledger"
        assert image.labels["org.opencontainers.image.version"] == "1.2.3"

    def test_holds_the_service_with_its_migrations_and_nothing_of_the_tools(self, image: Image) -> None:
        (packages,) = image.path("/opt/bulksms/lib").glob("python*/site-packages")
        names = {entry.name for entry in packages.iterdir()}
        assert {"bulksms", "bulksms_ledger", "servicekit", "grpc", "sqlalchemy"} <= names
        assert not names & {"pip", "hatchling", "grpc_tools", "mypy", "pytest", "devstack", "bulksms_campaign"}
        sources = {path.name for path in (ROOT / "services/ledger/src/bulksms_ledger/migrations").rglob("*.py")}
        packed = {path.name for path in (packages / "bulksms_ledger/migrations").rglob("*.py")}
        assert packed == sources

    def test_leaves_its_files_as_they_are(self, image: Image) -> None:
        before = {path: path.stat().st_mtime_ns for path in image.root.rglob("*")}
        help_text = image.run("--help")
        assert help_text.returncode == 0, help_text.stderr
        assert "serve" in help_text.stdout
        assert before == {path: path.stat().st_mtime_ns for path in image.root.rglob("*")}

    def test_says_which_variable_is_missing(self, image: Image) -> None:
        done = image.run("check")
        assert done.returncode == 2
        assert "DATABASE_URL is not set" in done.stdout + done.stderr

    def test_waits_for_migrations_makes_them_and_then_passes(self, image: Image, database_url: str) -> None:
        environment = {"DATABASE_URL": database_url}
        assert image.run("check", **environment).returncode == 2
        migrated = image.run("migrate", **environment)
        assert migrated.returncode == 0, migrated.stdout + migrated.stderr
        checked = image.run("check", **environment)
        assert checked.returncode == 0, checked.stdout + checked.stderr
