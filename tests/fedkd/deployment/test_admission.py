"""The gateway lets in registered clients and their interface only; clients learn why not."""

from __future__ import annotations

import base64
import datetime
import importlib.metadata
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from fedkd import certificates
from fedkd.deployment.admission import Reason, Refused, check
from fedkd.deployment.gateway import Door, Gateway
from fedkd.deployment.limits import MOST_BYTES, MOST_BYTES_OTHERWISE
from fedkd.deployment.names import HELLO, KEY_HEADER
from fedkd.deployment.processes import free_port

pytestmark = pytest.mark.enable_socket
FACTS = {"fedkd": importlib.metadata.version("fedkd"), "scenario": "00ff"}


@contextmanager
def opened(certs: Path, *, facts: dict[str, str] = FACTS) -> Iterator[str]:
    files = certificates.server_files(certs)
    port = free_port()
    door = Door(host="127.0.0.1", port=port, inner=free_port(), files=files, facts=facts)
    gateway = Gateway(door)
    gateway.open()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gateway") / "certs"
    certificates.init(folder, hosts=[], addresses=[], n_clients=1, days=2)
    return folder


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gateway") / "strangers"
    certificates.init(folder, hosts=[], addresses=[], n_clients=1, days=2)
    return folder


@pytest.fixture(scope="module")
def server(certs: Path) -> Iterator[str]:
    with opened(certs) as address:
        yield address


@pytest.fixture
def call(certs: Path, server: str) -> Iterator[Callable[..., int]]:
    trust = ssl.create_default_context(cafile=str(certs / "ca.crt"))
    with httpx.Client(verify=trust, trust_env=False, base_url=f"https://{server}") as client:

        def status(path: str, *, key: Path | None = None, body: bytes = b"", method: str = "POST"):
            pem = b"" if key is None else certificates.public_pem(key)
            headers = {KEY_HEADER: base64.b64encode(pem).decode()}
            return client.request(method, path, headers=headers, content=body).status_code

        yield status


def _reason(address: str, certs: Path, *, ca: Path | None = None, key: Path | None = None, **more):
    files = certificates.client_files(certs, 0)
    files = certificates.ClientFiles(ca=ca or files.ca, key=key or files.key)
    pem = certificates.public_pem(key or certs / "server/clients/client-0.pub")
    with pytest.raises(Refused) as refused:
        check(address, files, pem, **more)
    return refused.value.reason


def test_a_registered_client_is_let_in(certs: Path, server: str):
    pem = certificates.public_pem(certs / "server/clients/client-0.pub")
    check(server, certificates.client_files(certs, 0), pem, scenario_hash="00ff")


def test_another_authority(certs: Path, strangers: Path, server: str):
    assert _reason(server, certs, ca=strangers / "ca.crt") is Reason.WRONG_CA


def test_a_key_that_is_not_registered(certs: Path, strangers: Path, server: str):
    key = strangers / "server/clients/client-0.pub"
    assert _reason(server, certs, key=key) is Reason.NOT_REGISTERED


def test_another_scenario_and_another_version(certs: Path, server: str):
    assert _reason(server, certs, scenario_hash="1234") is Reason.OTHER_SCENARIO
    with opened(certs, facts=FACTS | {"fedkd": "9.9"}) as other:
        assert _reason(other, certs) is Reason.OTHER_VERSION


def test_nobody_there(certs: Path):
    assert _reason(f"127.0.0.1:{free_port()}", certs) is Reason.UNREACHABLE


@pytest.mark.parametrize(
    ("start", "names", "reason"),
    [
        (-10, ["127.0.0.1"], Reason.EXPIRED),
        (10, ["127.0.0.1"], Reason.CLOCK),
        (0, ["192.0.2.1"], Reason.OTHER_NAME),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_certificate_that_does_not_hold(tmp_path: Path, start: int, names, reason: Reason):
    certs = tmp_path / "certs"
    certificates.init(certs, hosts=[], addresses=[], n_clients=1, days=2)
    begins = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=start)
    general = [x509.IPAddress(ipaddress.ip_address(name)) for name in names]
    certificates.issue_server(certs, names=general, days=2, start=begins)
    with opened(certs) as address:
        assert _reason(address, certs) is reason


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/push-messages",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/docs",
        "/health",
        "/",
    ],
)
def test_only_the_clients_interface_is_there(call, certs: Path, path: str):
    assert call(path, key=certs / "server/clients/client-0.pub") in (404, 405)


def test_strangers_do_not_reach_flower(call, certs: Path, strangers: Path):
    known, unknown = (c / "server/clients/client-0.pub" for c in (certs, strangers))
    assert call("/v1/fleet/pull-messages", key=unknown) == 403
    assert call("/v1/fleet/pull-messages") == 403
    assert call("/v1/fleet/register-node", key=known) == 403
    assert call("/v1/fleet/pull-messages", key=known) == 503, "passed on; nobody is behind it here"
    assert call(HELLO, method="GET") == 403
    assert call(HELLO, key=known, method="GET") == 200


def test_a_body_above_the_cap_is_not_read_to_its_end(call, certs: Path):
    key = certs / "server/clients/client-0.pub"
    for path, most in (("push-object", MOST_BYTES), ("pull-messages", MOST_BYTES_OTHERWISE)):
        assert call(f"/v1/fleet/{path}", key=key, body=bytes(most)) == 503
        assert call(f"/v1/fleet/{path}", key=key, body=bytes(most + 1)) == 413
