"""Whether a server would let a client in, found out before Flower's client process is started.

Every refusal has a reason of its own, which is also an exit code: wrong authority, expired
certificate, no key, key not registered, another version or scenario, nobody there.
"""

from __future__ import annotations

import base64
import email.utils
import importlib.metadata
import socket
import ssl
import time
from enum import IntEnum
from http import HTTPStatus
from pathlib import Path

import httpx

from fedkd.certificates import ClientFiles
from fedkd.deployment.names import CODE_SENT, HELLO, KEY_HEADER
from fedkd.errors import ConfigError

_EXPIRED, _NOT_YET, _OTHER_NAME = 10, 9, (62, 64)
_AHEAD_S, _BEHIND_S = 6.0, 300.0


class Reason(IntEnum):
    """Why a client is not let in; the values are exit codes of ``fedkd client join``."""

    UNREACHABLE = 20
    WRONG_CA = 21
    EXPIRED = 22
    OTHER_NAME = 23
    NO_KEY = 24
    NOT_REGISTERED = 25
    OTHER_VERSION = 26
    OTHER_SCENARIO = 27
    CLOCK = 28
    CODE_SENT = CODE_SENT


class Refused(Exception):
    """The client cannot join, now or until somebody does something about it."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def check(server: str, files: ClientFiles, key: bytes, *, scenario_hash: str = "") -> None:
    """Ask the server whether it would let us in; Refused when not.

    A server without our gateway is not asked about keys, version and scenario: Flower checks the
    key, and the handshake of the run the rest.
    """
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    trust = _trust(files.ca)
    _shake_hands(host, port, server=server, trust=trust)
    try:
        answer = httpx.get(
            f"https://{server}{HELLO}",
            headers={KEY_HEADER: base64.b64encode(key).decode()},
            verify=trust,
            timeout=10.0,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise Refused(Reason.UNREACHABLE, f"{server}: {error}") from None
    if answer.status_code == HTTPStatus.FORBIDDEN:
        raise Refused(
            Reason.NOT_REGISTERED,
            f"the server does not know the key {str(files.key)!r}; it takes the keys that lie in "
            "its certificate folder under clients/ when it starts",
        )
    _check_clock(answer.headers.get("date", ""))
    if answer.is_success:
        _check_facts(answer.json(), scenario_hash)


def _shake_hands(host: str, port: str, *, server: str, trust: ssl.SSLContext) -> None:
    if not host or not port.isdigit():
        raise ConfigError(f"--server {server!r}: give HOST:PORT")
    try:
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            trust.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        raise _distrusted(error, server=server, host=host) from None
    except (OSError, OverflowError) as error:
        raise Refused(Reason.UNREACHABLE, f"{server} does not answer ({error})") from None


def _distrusted(error: ssl.SSLCertVerificationError, *, server: str, host: str) -> Refused:
    if error.verify_code == _EXPIRED:
        text = f"the certificate of {server} has expired; on the server: 'fedkd certs renew'"
        return Refused(Reason.EXPIRED, text)
    if error.verify_code == _NOT_YET:
        text = f"the certificate of {server} is not valid yet; set this device's clock"
        return Refused(Reason.CLOCK, text)
    if error.verify_code in _OTHER_NAME:
        text = (
            f"the certificate of {server} is not for {host!r}; on the server: 'fedkd certs renew "
            f"--host {host}' (or --ip)"
        )
        return Refused(Reason.OTHER_NAME, text)
    text = (
        f"the certificate of {server} is not signed by our ca.crt ({error.verify_message}); copy "
        "ca.crt from this server, or somebody is in between"
    )
    return Refused(Reason.WRONG_CA, text)


def _check_clock(date: str) -> None:
    """Flower refuses requests that were signed 5 s in the future or 305 s in the past."""
    try:
        ahead = time.time() - email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return
    if not -_BEHIND_S < ahead < _AHEAD_S:
        raise Refused(
            Reason.CLOCK,
            f"this device's clock is {ahead:+.0f} s off the server's, which refuses what is signed "
            f"more than 5 s in its future; set the clock (NTP)",
        )


def _check_facts(facts: dict[str, str], wanted: str) -> None:
    mine = importlib.metadata.version("fedkd")
    if facts.get("fedkd") != mine:
        raise Refused(
            Reason.OTHER_VERSION,
            f"the server runs fedkd {facts.get('fedkd')!r}, this client {mine!r}; install the same",
        )
    if wanted and facts.get("scenario") != wanted:
        raise Refused(
            Reason.OTHER_SCENARIO,
            f"the server's scenario is {facts.get('scenario')!r}, you agreed to {wanted!r}; look "
            "at it, and give --scenario-hash again",
        )


def _trust(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (ssl.SSLError, OSError) as error:
        raise Refused(Reason.WRONG_CA, f"{str(ca)!r} is no certificate ({error})") from None
