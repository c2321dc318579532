"""The environments of the pods are ones the services start with: nothing misspelt, nothing missing, nothing stale."""

from __future__ import annotations

import pytest

from servicekit.settings import Endpoint, ServiceSettings, load
from tests.deploy.manifests import SERVICES, Overlay, settings_type
from tests.deploy.test_deploy_pods import memory

# Read by OpenTelemetry itself, or only there to be put into another variable.
NOT_OURS = {"OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "POD_NAME", "POD_NAMESPACE"}


def load_from(monkeypatch: pytest.MonkeyPatch, service: str, environment: dict[str, str]) -> ServiceSettings:
    for name in settings_type(service).model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return load(settings_type(service))


def test_every_container_of_a_service_starts_with_a_complete_environment(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    for workload in overlay.workloads:
        for container in workload.containers:
            with monkeypatch.context() as patched:
                load_from(patched, workload.service, overlay.environment(container))


def test_every_variable_is_a_setting_the_service_has(overlay: Overlay) -> None:
    for workload in overlay.workloads:
        known = {name.upper() for name in settings_type(workload.service).model_fields}
        assert overlay.environment(workload.main).keys() <= known | NOT_OURS, workload.name


def test_no_secret_is_in_a_config_map_or_in_an_overlay(overlay: Overlay) -> None:
    assert not overlay.kind("Secret")
    secret = {variable for values in overlay.secrets.values() for variable in values}
    for item in overlay.kind("ConfigMap"):
        assert not item["data"].keys() & secret, item["metadata"]["name"]


def test_the_example_has_exactly_the_secrets_that_are_referred_to(overlay: Overlay) -> None:
    referred = {
        source["secretRef"]["name"]
        for workload in overlay.workloads
        for container in workload.containers
        for source in container.get("envFrom", [])
        if "secretRef" in source
    }
    assert overlay.secrets.keys() == referred


def test_addresses_of_peers_are_services_and_ports_are_those_listened_on(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = {item["metadata"]["name"]: item["spec"] for item in overlay.kind("Service")}
    for server in overlay.servers:
        environment = overlay.environment(server.main)
        settings = load_from(monkeypatch, server.service, environment)
        ports = {port["name"]: port["containerPort"] for port in server.main["ports"]}
        assert settings.grpc_listen.port == ports.pop("grpc")
        http = getattr(settings, "http_listen", None)
        assert ports == ({"http": http.port} if isinstance(http, Endpoint) else {})
        for variable, value in environment.items():
            if variable.endswith("_ADDRESS"):
                host, _, port = value.partition(":")
                assert int(port) in {p["port"] for p in services[host]["ports"]}, (server.name, variable)


@pytest.mark.parametrize("service", SERVICES)
def test_pods_say_which_one_they_are_in_their_spans(overlay: Overlay, service: str) -> None:
    attributes = overlay.environment(overlay.server(service).main)["OTEL_RESOURCE_ATTRIBUTES"]
    assert "k8s.pod.name=$(POD_NAME)" in attributes


def test_a_rollout_waits_for_provider_calls_to_end(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_from(monkeypatch, "dispatcher", overlay.environment(overlay.server("dispatcher").main))
    assert settings.shutdown_grace_seconds > settings.mitto_hard_timeout_seconds  # type: ignore[attr-defined]


def test_the_spool_fits_its_volume(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = overlay.server("dlr-gateway")
    (claim,) = gateway.item["spec"]["volumeClaimTemplates"]
    settings = load_from(monkeypatch, "dlr-gateway", overlay.environment(gateway.main))
    needed = settings.spool_max_bytes + settings.spool_min_free_bytes  # type: ignore[attr-defined]
    assert memory(claim["spec"]["resources"]["requests"]["storage"]) > 1.5 * needed
