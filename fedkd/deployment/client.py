"""A client on a device: Flower's client process, looked after and started again."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from fedkd.certificates import ClientFiles, client_files, private_key
from fedkd.deployment.admission import Reason, Refused, check
from fedkd.deployment.processes import environment, free_port, start, stop
from fedkd.errors import ConfigError

Say = Callable[[str], None]
_SLOWEST_S = 60.0
_GIVE_UP_S = 120


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a client joins.

    Attributes:
        server: ``HOST:PORT`` of the server's gateway.
        certs: the folder of ``fedkd certs init``, or its ``client-N``.
        client: the client id N.
        data: its own examples (``fedkd_clients.own_data``); empty takes the scenario's.
        state: where its model, optimizer and privacy ledger stay.
        wait_s: how long an unreachable server is tried.
        scenario_hash: work for this scenario only; empty for any.
    """

    server: str
    certs: Path
    client: int
    data: str
    state: Path
    wait_s: float
    scenario_hash: str


def join(options: Options, say: Say) -> None:
    """Serve a server until interrupted; start again, ever more slowly, whatever ends it.

    Raises:
        Refused: see :class:`Reason`.
        ConfigError: a path is impossible.
    """
    files = client_files(options.certs, options.client)
    key = _public_key(files)
    if not files.ca.is_file():
        raise Refused(Reason.WRONG_CA, f"{str(files.ca)!r} is missing; copy it from the server")
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    words, attempt = _words(options, files), 0
    while True:
        _until_let_in(options, files, key, say)
        say(f"client {options.client}: joining {options.server}")
        child = start(
            [*words, "--port", str(free_port())],
            environment=environment(options.state / "flower"),
            output=None,
            orphaned=signal.SIGTERM,
        )
        begun = time.monotonic()
        try:
            child.wait()
        finally:
            stop(child, patience=15)
        if child.returncode == Reason.CODE_SENT:
            raise Refused(
                Reason.CODE_SENT,
                f"{options.server} sent a bundle with code, or with other apps than fedkd's; this "
                "client runs what is installed here only: ask whoever operates the server",
            )
        attempt = 0 if time.monotonic() - begun > _SLOWEST_S else attempt + 1
        pause = _pause(attempt)
        say(f"client {options.client}: ended with code {child.returncode}; again in {pause:.0f} s")
        time.sleep(pause)


def _until_let_in(options: Options, files: ClientFiles, key: bytes, say: Say) -> None:
    limit, attempt = time.monotonic() + options.wait_s, 0
    while True:
        try:
            check(options.server, files, key, scenario_hash=options.scenario_hash)
        except Refused as refused:
            attempt += 1
            left = limit - time.monotonic()
            if refused.reason is not Reason.UNREACHABLE or left <= 0:
                raise
            pause = min(_pause(attempt), left)
            say(f"client {options.client}: {refused}; again in {pause:.0f} s")
            time.sleep(pause)
        else:
            return


def _public_key(files: ClientFiles) -> bytes:
    try:
        key = private_key(files.key)
    except ConfigError as error:
        raise Refused(Reason.NO_KEY, str(error)) from None
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _words(options: Options, files: ClientFiles) -> list[str]:
    facts = {"state-dir": str(options.state.resolve())}
    if options.data:
        if not Path(options.data).exists():
            raise ConfigError(f"--data {options.data!r}: there is no such file or folder")
        facts["data"] = str(Path(options.data).resolve())
    if options.scenario_hash:
        facts["scenario-hash"] = options.scenario_hash
    for name, value in facts.items():
        if "'" in value or not value.isprintable():
            raise ConfigError(f"{name}: Flower cannot be told {value!r}; avoid quotes in paths")
    config = [f"partition-id={options.client}", *(f"{k}='{v}'" for k, v in facts.items())]
    return [
        *(sys.executable, "-m", "fedkd.deployment.supernode"),
        *("--superlink", options.server, "--root-certificates", str(files.ca)),
        *("--auth-supernode-private-key", str(files.key), "--node-config", " ".join(config)),
        *("--max-wait-time", str(_GIVE_UP_S), "--host", "127.0.0.1"),
    ]


def _pause(attempt: int) -> float:
    return min(_SLOWEST_S, 2.0 ** min(attempt, 10))
