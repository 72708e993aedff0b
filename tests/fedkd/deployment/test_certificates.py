"""Certificates and keys: the right names, private files, and nothing ever overwritten."""

from __future__ import annotations

import datetime
import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedkd import certificates
from fedkd.errors import ConfigError


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    certificates.init(folder, hosts=["fed.lan"], addresses=["10.0.0.7"], n_clients=2, days=30)
    return folder


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_server_is_signed_for_its_names_and_for_loopback(made: Path):
    authority, server = _certificate(made / "ca.crt"), _certificate(made / "server/server.crt")
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "fed.lan"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(a) for a in ("127.0.0.1", "::1", "10.0.0.7")
    ]
    days = (server.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).total_seconds()
    assert 29.9 < days / 86400 < 30.1
    constraints = server.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca


def test_private_files_are_private_and_all_else_is_where_it_belongs(made: Path):
    private = sorted(p.relative_to(made).as_posix() for p in made.rglob("*.key"))
    assert private == [
        *("ca.key", "client-0/client-0.key", "client-1/client-1.key", "server/server.key"),
    ]
    for name in private:
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600
    assert {p.name for p in (made / "client-1").iterdir()} == {"ca.crt", "client-1.key"}


def test_keys_are_p384_and_the_server_holds_their_public_halves(made: Path):
    files = certificates.server_files(made)
    assert sorted(files.clients) == [0, 1]
    for client, path in files.clients.items():
        key = certificates.private_key(certificates.client_files(made, client).key)
        assert isinstance(key.curve, ec.SECP384R1)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert certificates.public_pem(path) == public


def test_each_side_finds_its_part_alone(made: Path):
    assert certificates.server_files(made / "server").key == made / "server" / "server.key"
    part = certificates.client_files(made / "client-1", 1)
    assert part == certificates.client_files(made, 1)


def test_nothing_is_overwritten(made: Path):
    before = (made / "ca.key").read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        certificates.init(made, hosts=[], addresses=[], n_clients=2, days=30)
    assert (made / "ca.key").read_bytes() == before


def test_renewing_replaces_the_server_only(made: Path):
    before = {p: p.read_bytes() for p in made.rglob("*") if p.is_file()}
    certificates.renew(made, hosts=["new.lan"], addresses=[], days=5)
    changed = {p.name for p, content in before.items() if p.read_bytes() != content}
    assert changed == {"server.crt", "server.key"}
    _certificate(made / "server/server.crt").verify_directly_issued_by(
        _certificate(made / "ca.crt")
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hosts": ["a b"]}, "no name or address"),
        ({"addresses": ["fed.lan"]}, "no name or address"),
        ({"n_clients": 0}, "--clients 0"),
        ({"days": 0}, "--days 0"),
        ({"days": 5000}, "--days 5000"),
    ],
)
def test_impossible_requests_are_refused_with_the_value(tmp_path: Path, wrong, said):
    given = {"hosts": [], "addresses": [], "n_clients": 1, "days": 1} | wrong
    with pytest.raises(ConfigError, match=said):
        certificates.init(tmp_path / "x", **given)


def test_what_is_missing_is_named(tmp_path: Path, made: Path):
    with pytest.raises(ConfigError, match=r"server\.crt' is missing|ca\.crt' is missing"):
        certificates.server_files(tmp_path)
    with pytest.raises(ConfigError, match=r"ca\.key' is missing"):
        certificates.renew(made / "server", hosts=[], addresses=[], days=1)
    with pytest.raises(ConfigError, match=r"no key: .* is missing"):
        certificates.private_key(tmp_path / "client-9.key")
    (tmp_path / "text.key").write_text("not a key")
    with pytest.raises(ConfigError, match="not an OpenSSH private key"):
        certificates.private_key(tmp_path / "text.key")


@pytest.mark.parametrize(
    ("start", "told"), [(-10, "expired on .* 'fedkd certs renew'"), (2, "clock")]
)
def test_a_server_does_not_start_with_a_certificate_that_no_client_would_take(
    made: Path, start: int, told: str
):
    path = made / "server" / "server.crt"
    certificates.check_valid(path)
    begins = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=start)
    certificates.issue_server(made, names=[x509.DNSName("x")], days=1, start=begins)
    with pytest.raises(ConfigError, match=told):
        certificates.check_valid(path)
