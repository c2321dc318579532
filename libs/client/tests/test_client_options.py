"""Settings: arguments before the environment before the file; TLS and mutual TLS for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms_client import AsyncClient, Client, ConfigurationError, TlsOptions, Unavailable
from bulksms_client.options import resolve_options


def test_arguments_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "bulksms.toml"
    config.write_text('campaign = "file:1"\nledger = "file:2"\ndispatcher = "file:3"\ntenant = "file"\ntimeout = 3\n')
    environment = {"BULKSMS_CONFIG": str(config), "BULKSMS_CAMPAIGN": "env:1", "BULKSMS_LEDGER": "env:2"}
    options = resolve_options(campaign="argument:1", environment=environment)
    assert options.addresses == {"campaign": "argument:1", "ledger": "env:2", "dispatcher": "file:3"}
    assert (options.tenant_id, options.timeout_seconds, options.tls) == ("file", 3.0, None)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"campaign = ", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b'campain = "x:1"', "unknown setting 'campain'; known are campaign"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path: Path, content: bytes, complaint: str) -> None:
    config = tmp_path / "bulksms.toml"
    config.write_bytes(content)
    with pytest.raises(ConfigurationError, match=complaint):
        resolve_options(environment={"BULKSMS_CONFIG": str(config)})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml"):
        resolve_options(environment={"BULKSMS_CONFIG": "nowhere.toml"})


@pytest.mark.parametrize("word", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_must_be_a_number_of_seconds(word: str) -> None:
    with pytest.raises(ConfigurationError, match="BULKSMS_TIMEOUT"):
        resolve_options(environment={"BULKSMS_TIMEOUT": word})


def test_a_certificate_without_its_key_is_refused() -> None:
    options = resolve_options(environment={"BULKSMS_TLS_CERT": "cert.pem"})
    assert options.tls is not None
    with pytest.raises(ConfigurationError, match="BULKSMS_TLS_KEY"):
        options.tls.credentials()


def test_a_tls_file_that_is_not_there_is_named(services: Any) -> None:
    with (
        Client(campaign=services.address, tenant_id="acme", tls=TlsOptions(ca="nowhere.pem")) as client,
        pytest.raises(ConfigurationError, match=r"nowhere\.pem"),
    ):
        client.campaigns.get("c1")


def test_public_authorities_can_be_asked_for() -> None:
    options = resolve_options(environment={"BULKSMS_TLS_CA": "public", "BULKSMS_TLS_SERVER_NAME": "sms.example"})
    assert options.tls == TlsOptions(server_name="sms.example")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's and a client's certificate for the name bulksms.test, and another authority."""
    folder, authority = tmp_path_factory.mktemp("pki"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
    for name in ("server", "client"):
        issued = authority.issue_cert("bulksms.test")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return folder


@pytest.fixture
def mutual_services(serve: Any, pki: Path) -> Any:
    pair = ((pki / "server.key").read_bytes(), (pki / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (pki / "ca.pem").read_bytes(), require_client_auth=True)
    services = serve(credentials=credentials)
    services.on("GetCampaign", pb.GetCampaignResponse(campaign=pb.Campaign(campaign_id="c1")))
    return services


def test_mutual_tls_from_the_environment(mutual_services: Any, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "CAMPAIGN": mutual_services.address,
        "TENANT": "acme",
        "TLS_CA": str(pki / "ca.pem"),
        "TLS_CERT": str(pki / "client.pem"),
        "TLS_KEY": str(pki / "client.key"),
        "TLS_SERVER_NAME": "bulksms.test",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"BULKSMS_{name}", value)
    with Client() as client:
        assert client.campaigns.get("c1").campaign_id == "c1"


async def test_mutual_tls_over_asyncio(mutual_services: Any, pki: Path) -> None:
    tls = TlsOptions(ca=pki / "ca.pem", cert=pki / "client.pem", key=pki / "client.key", server_name="bulksms.test")
    async with AsyncClient(campaign=mutual_services.address, tenant_id="acme", tls=tls) as client:
        assert (await client.campaigns.get("c1")).campaign_id == "c1"


@pytest.mark.parametrize("wrong", ["no client certificate", "another authority", "another name", "no encryption"])
def test_a_channel_that_proves_too_little_is_refused(mutual_services: Any, pki: Path, wrong: str) -> None:
    own = None if wrong == "no client certificate" else pki
    tls = TlsOptions(
        ca=pki / ("other-ca.pem" if wrong == "another authority" else "ca.pem"),
        cert=own and own / "client.pem",
        key=own and own / "client.key",
        server_name="bulksms.other" if wrong == "another name" else "bulksms.test",
    )
    with (
        Client(
            campaign=mutual_services.address, tenant_id="acme", tls=None if wrong == "no encryption" else tls
        ) as client,
        pytest.raises(Unavailable),
    ):
        client.campaigns.get("c1", timeout=8)
    assert mutual_services.calls == []
