"""Makes the certificates and keys of a deployment, and finds them again.

A certificate authority of your own signs the server's certificate, against which clients check the
server. Each client signs its requests with a P-384 key; the server knows the public halves.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedkd.errors import ConfigError

CA_DAYS = 3650
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CLOCK_SLACK = datetime.timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class ServerFiles:
    """What the server needs: ``DIR/server``, or a copy of it.

    Attributes:
        ca: certificate of the authority.
        certificate: the server's own.
        key: its private key.
        clients: public key file of every client, by client id.
    """

    ca: Path
    certificate: Path
    key: Path
    clients: dict[int, Path]


@dataclass(frozen=True, kw_only=True)
class ClientFiles:
    """What one client needs: ``DIR/client-N``, or a copy of it."""

    ca: Path
    key: Path


def init(
    folder: Path, *, hosts: Sequence[str], addresses: Sequence[str], n_clients: int, days: int
) -> None:
    """Make a certificate authority, a server certificate and a key for each client.

    ``folder/ca.key`` signs new server certificates and nothing else needs it; ``folder/server``
    goes to the server, ``folder/client-N`` to client N. Private files are readable by their owner
    only.

    Raises:
        ConfigError: there is something in ``folder``, or a number or name is impossible.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"{str(folder)!r} is not empty, and keys are never overwritten; name a new folder, or "
            "make a new server certificate with 'fedkd certs renew'"
        )
    if n_clients < 1:
        raise ConfigError(f"--clients {n_clients}: give 1 or more")
    names = _names(hosts, addresses)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    _write_private(folder / "ca.key", _pem(key))
    _write(folder / "ca.crt", _authority(key))
    issue_server(folder, names=names, days=days)
    for client in range(n_clients):
        _write_client(folder, client)


def renew(folder: Path, *, hosts: Sequence[str], addresses: Sequence[str], days: int) -> None:
    """Replace the server's certificate and key; clients need nothing new.

    Raises:
        ConfigError: ``folder`` holds no authority.
    """
    if not (folder / "ca.key").is_file():
        raise ConfigError(
            f"{str(folder / 'ca.key')!r} is missing; certificates are renewed where 'fedkd certs "
            "init' made them"
        )
    issue_server(folder, names=_names(hosts, addresses), days=days)


def issue_server(
    folder: Path,
    *,
    names: list[x509.GeneralName],
    days: int,
    start: datetime.datetime | None = None,
) -> None:
    """Sign a server certificate that is valid for ``days`` from ``start`` (now)."""
    if not 1 <= days <= CA_DAYS:
        raise ConfigError(f"--days {days}: give 1 to {CA_DAYS}")
    issuer = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{str(folder / 'ca.key')!r} is no EC key; run 'fedkd certs init'")
    key = ec.generate_private_key(ec.SECP384R1())
    begins = (start or _now()) - _CLOCK_SLACK
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named("fedkd server"))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + _CLOCK_SLACK + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    server = folder / "server"
    server.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(folder / "ca.crt", server / "ca.crt")
    _write(server / "server.crt", builder.sign(signer, hashes.SHA384()))
    _write_private(server / "server.key", _pem(key))


def server_files(folder: Path) -> ServerFiles:
    """Return the files in ``folder`` or its ``server``; ConfigError when one is missing."""
    place = folder if (folder / "server.crt").is_file() else folder / "server"
    found = ServerFiles(
        ca=place / "ca.crt",
        certificate=place / "server.crt",
        key=place / "server.key",
        clients={
            int(path.stem.removeprefix("client-")): path
            for path in sorted((place / "clients").glob("client-*.pub"))
        },
    )
    for path in (found.ca, found.certificate, found.key):
        if not path.is_file():
            raise ConfigError(f"{str(path)!r} is missing; make it with 'fedkd certs init'")
    return found


def check_valid(certificate: Path) -> None:
    """Refuse to serve with a certificate that no client would take; ConfigError with the date."""
    now = datetime.datetime.now(datetime.UTC)
    read = x509.load_pem_x509_certificate(certificate.read_bytes())
    if read.not_valid_after_utc < now:
        raise ConfigError(
            f"{str(certificate)!r} expired on {read.not_valid_after_utc:%Y-%m-%d}; 'fedkd certs "
            "renew' makes another, and clients need nothing new"
        )
    if read.not_valid_before_utc > now:
        raise ConfigError(
            f"{str(certificate)!r} is valid from {read.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
            "set this machine's clock"
        )


def client_files(folder: Path, client: int) -> ClientFiles:
    """Return where the files of one client are in ``folder`` or its ``client-N``, there or not."""
    place = folder / f"client-{client}"
    if not place.is_dir():
        place = folder
    return ClientFiles(ca=place / "ca.crt", key=place / f"client-{client}.key")


def public_pem(path: Path) -> bytes:
    """Return a public key file as PEM, the form in which Flower's messages carry it."""
    key = serialization.load_ssh_public_key(path.read_bytes())
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a client's private key; ConfigError when there is none of the right kind."""
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except OSError:
        raise ConfigError(
            f"no key: {str(path)!r} is missing; copy the folder that 'fedkd certs init' made for "
            "this client"
        ) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"no key: {str(path)!r} is not an OpenSSH private key ({error})"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"no key: {str(path)!r} is not an EC key; 'fedkd certs init' makes them")
    return key


def _write_client(folder: Path, client: int) -> None:
    key, place = ec.generate_private_key(ec.SECP384R1()), folder / f"client-{client}"
    place.mkdir(mode=0o700)
    shutil.copy(folder / "ca.crt", place / "ca.crt")
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    _write_private(place / f"client-{client}.key", private)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    registered = folder / "server" / "clients"
    registered.mkdir(mode=0o700, exist_ok=True)
    (registered / f"client-{client}.pub").write_bytes(public + b"\n")


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    begins, name = _now() - _CLOCK_SLACK, _named("fedkd certificate authority")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=CA_DAYS + 1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA384())


def _names(hosts: Sequence[str], addresses: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for word in dict.fromkeys((*LOOPBACK, *hosts, *addresses)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(word)))
        except ValueError:
            if not word.replace("-", "").replace(".", "").isalnum() or word in addresses:
                raise ConfigError(f"--host or --ip {word!r} is no name or address") from None
            names.append(x509.DNSName(word))
    return names


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
