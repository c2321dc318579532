"""The rules every pod keeps: locked down, probed, bounded, stopped without loss, reached by the right Service."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from tests.deploy.manifests import SERVICES, Overlay, Workload

CUT_SECONDS = 5  # servicekit: for what is cut after the grace
FLUSH_SECONDS = 5  # servicekit: for the last spans


def memory(quantity: str) -> int:
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    return int(quantity[:-2]) * units[quantity[-2:]]


def test_each_service_runs_once_and_those_with_a_database_have_a_migration(overlay: Overlay) -> None:
    assert sorted(server.service for server in overlay.servers) == sorted(SERVICES)
    jobs = [workload for workload in overlay.workloads if not workload.serves]
    assert sorted(job.service for job in jobs) == ["campaign", "dispatcher", "ledger"]
    for job in jobs:
        assert job.main["args"] == ["migrate"]
        assert job.pod["restartPolicy"] == "Never"
        assert job.item["spec"]["backoffLimit"] > 0
        assert job.item["spec"]["ttlSecondsAfterFinished"] > 0
        (waiting,) = overlay.server(job.service).pod["initContainers"]
        assert "bulksms-service check" in waiting["args"][0]


def test_the_gateway_keeps_its_spool_on_a_volume_of_its_own(overlay: Overlay) -> None:
    gateway = overlay.server("dlr-gateway")
    assert gateway.item["kind"] == "StatefulSet"
    (claim,) = gateway.item["spec"]["volumeClaimTemplates"]
    (mount,) = (m for m in gateway.main["volumeMounts"] if m["name"] == claim["metadata"]["name"])
    spool = PurePosixPath(overlay.environment(gateway.main)["SPOOL_PATH"])
    assert spool.parent == PurePosixPath(mount["mountPath"])
    retention = gateway.item["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert set(retention.values()) == {"Retain"}


def test_no_pod_is_root_or_may_write_or_has_rights_in_the_cluster(overlay: Overlay) -> None:
    for workload in overlay.workloads:
        pod = workload.pod
        assert pod["securityContext"]["runAsNonRoot"] is True, workload.name
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in workload.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, workload.name
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_every_container_asks_for_what_it_needs_and_has_a_bound(overlay: Overlay) -> None:
    for workload in overlay.workloads:
        for container in workload.containers:
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= requests.keys(), workload.name
            assert memory(limits["memory"]) >= memory(requests["memory"])


def test_every_image_has_a_tag_that_does_not_move_and_a_pod_has_only_its_own(overlay: Overlay) -> None:
    for workload in overlay.workloads:
        for container in workload.containers:
            name, separator, tag = container["image"].rpartition(":")
            assert separator, container["image"]
            assert tag not in {"", "latest"}
            assert name.endswith(f"bulksms/{workload.service}")


def test_servers_start_by_grpc_are_ready_by_what_they_serve_and_live_by_tcp(overlay: Overlay) -> None:
    for server in overlay.servers:
        grpc = {"port": 50051, "service": ""}
        assert server.main["startupProbe"]["grpc"] == grpc, server.name
        assert server.main["livenessProbe"]["tcpSocket"] == {"port": 50051}
        readiness = server.main["readinessProbe"]
        if server.service == "dlr-gateway":
            assert readiness["httpGet"] == {"path": "/readyz", "port": "http"}
            assert "grpc" not in readiness
        else:
            assert readiness["grpc"] == grpc


def test_a_new_pod_is_ready_before_an_old_one_goes(overlay: Overlay) -> None:
    for item in overlay.kind("Deployment"):
        assert item["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_stop_is_given_the_time_it_may_take(overlay: Overlay) -> None:
    for server in overlay.servers:
        grace = float(overlay.environment(server.main)["SHUTDOWN_GRACE_SECONDS"])
        before = server.main["lifecycle"]["preStop"]["sleep"]["seconds"]
        # Servers stop before the workers behind them, each within the grace.
        longest = before + 2 * (grace + CUT_SECONDS) + FLUSH_SECONDS
        assert server.pod["terminationGracePeriodSeconds"] > longest, server.name


def test_services_lead_to_one_workload_and_never_to_a_migration(overlay: Overlay) -> None:
    for service in overlay.kind("Service"):
        (found,) = overlay.selected(service["spec"]["selector"])
        assert found.serves, service["metadata"]["name"]
        ports = {port["name"] for port in found.main["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_workloads_and_budgets_select_exactly_their_own_pods(overlay: Overlay) -> None:
    for server in overlay.servers:
        assert overlay.selected(server.item["spec"]["selector"]["matchLabels"]) == [server]
    budgets = overlay.kind("PodDisruptionBudget")
    chosen = [overlay.selected(budget["spec"]["selector"]["matchLabels"]) for budget in budgets]
    assert sorted(workload.name for (workload,) in chosen) == sorted(server.name for server in overlay.servers)


def test_grpc_services_are_headless_so_that_clients_spread_their_calls(overlay: Overlay) -> None:
    headless = {s["metadata"]["name"] for s in overlay.kind("Service") if s["spec"].get("clusterIP") == "None"}
    assert headless == set(SERVICES)
    (governing,) = {item["spec"]["serviceName"] for item in overlay.kind("StatefulSet")}
    assert governing in headless


def test_an_autoscaler_owns_the_number_of_its_pods_and_can_measure_them(overlay: Overlay) -> None:
    (autoscaler,) = overlay.kind("HorizontalPodAutoscaler")
    dispatcher = overlay.server("dispatcher")
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == dispatcher.item["metadata"]["name"]
    assert "replicas" not in dispatcher.item["spec"]
    assert "cpu" in dispatcher.main["resources"]["requests"]
    assert autoscaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 60
    for server in overlay.servers:
        assert server is dispatcher or server.item["spec"].get("replicas", 2) >= 2


def test_network_policies_let_every_service_reach_its_peers_and_its_peers_be_reached(overlay: Overlay) -> None:
    for workload in overlay.workloads:
        assert len(list(overlay.policies_of(workload))) >= 2, workload.name  # closed by default, then opened
    for server in overlay.servers:
        for peer in peers(overlay, server):
            assert any(allows(rule, "to", peer) for rule in rules(overlay, server, "egress")), (server.name, peer.name)
            assert any(allows(rule, "from", server) for rule in rules(overlay, peer, "ingress"))


def test_network_policies_let_each_workload_reach_its_stores(overlay: Overlay) -> None:
    needed = {"DATABASE_URL": 5432, "REDIS_URL": 6379, "MITTO_BASE_URL": 443, "OTEL_EXPORTER_OTLP_ENDPOINT": 4317}
    for workload in overlay.workloads:
        environment = overlay.environment(workload.main)
        opened = {port["port"] for rule in rules(overlay, workload, "egress") for port in rule["ports"]}
        assert {port for variable, port in needed.items() if variable in environment} | {53} <= opened, workload.name


def peers(overlay: Overlay, server: Workload) -> list[Workload]:
    environment = overlay.environment(server.main)
    hosts = [value.rpartition(":")[0] for key, value in environment.items() if key.endswith("_ADDRESS")]
    return [overlay.server(host) for host in hosts]


def rules(overlay: Overlay, workload: Workload, direction: str) -> list[dict[str, Any]]:
    return [rule for policy in overlay.policies_of(workload) for rule in policy.get(direction, [])]


def allows(rule: dict[str, Any], side: str, other: Workload) -> bool:
    ports = {port["port"] for port in rule["ports"]}
    selectors = [peer["podSelector"]["matchLabels"] for peer in rule.get(side, []) if "namespaceSelector" not in peer]
    return 50051 in ports and any(selector.items() <= other.labels.items() for selector in selectors)
