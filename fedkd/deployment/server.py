"""A server for real clients: Flower's server on loopback, our gateway, one run, and a clean end."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess  # nosec B404  # lists of words, no shell
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.adversaries.base import check_devices
from fedkd.certificates import ServerFiles, check_valid, server_files
from fedkd.deployment import flower
from fedkd.deployment.gateway import Door, Gateway
from fedkd.deployment.processes import born, descendants, environment, free_port, start, stop
from fedkd.errors import ConfigError, RunStopped
from fedkd.run_files import read_events, read_run_id, read_summary
from fedkd.run_folder import new_run_id
from fedkd.scenario import Scenario, scenario_hash, to_json

Say = Callable[[str], None]
RECORD, LOG, RUN_LOG = "server.json", "superlink.log", "run.log"
_FOLDER = re.compile(r"run folder: (\S.*?)\s*$", re.MULTILINE)
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a server is run.

    Attributes:
        certs: the folder of ``fedkd certs init``, or its ``server``.
        state: where database, logs and the app bundle are; one server at a time.
        out: where run folders are made.
        host: address of the public side; loopback unless you name another.
        port: the public port.
        wait_s: how long to wait for all clients before the first round.
    """

    certs: Path
    state: Path
    out: Path
    host: str
    port: int
    wait_s: float


def up(
    scenario: Scenario, options: Options, say: Say, *, resume: Path | None = None
) -> dict[str, Any]:
    """Serve one run to its end and return its summary.

    Args:
        scenario: what is run, with every noise multiplier known.
        options: where.
        say: told what happens, line by line.
        resume: the folder of a run that did not finish, to go on with; None begins one.

    Raises:
        ConfigError: certificates are missing or expired, the port is taken, a server runs here
            already, or clients are to attack.
        RunStopped: the run did not finish.
    """
    check_devices(scenario.attack)
    scenario.runtime.check_timed(scenario.client_models())
    files = server_files(options.certs)
    check_valid(files.certificate)
    _check_clients(files, scenario)
    _claim(options.state)
    home, inner = options.state / "flower", free_port()
    run_id = new_run_id() if resume is None else read_run_id(resume)
    flower.write_bundle(options.state / "fedkd-run", to_json(scenario), run_id=run_id)
    flower.write_connection(home, inner=inner, ca=files.ca)
    names = {
        "FEDKD_RUNS": str(options.out.resolve()),
        "FEDKD_WAIT_S": str(options.wait_s),
        "FEDKD_RUN_ID": run_id,
    }
    if resume is not None:
        names["FEDKD_RESUME"] = str(resume.resolve())
    variables = environment(home, names)
    with (options.state / LOG).open("ab") as log:
        superlink = start(
            flower.superlink_words(files, state=options.state, port=inner),
            environment=variables,
            output=log,
            orphaned=signal.SIGKILL,
        )
    gateway: Gateway | None = None
    stream: subprocess.Popen[bytes] | None = None
    try:
        flower.wait_until_up(superlink, ca=files.ca, port=inner, log=options.state / LOG)
        flower.register(files.clients, state=options.state, environment=variables)
        gateway = Gateway(_door(options, files, scenario, inner))
        _open(gateway, options)
        say(f"listening on {options.host}:{options.port}; scenario {scenario_hash(scenario)}")
        with (options.state / RUN_LOG).open("wb") as log:
            stream = start(flower.run_words(options.state), environment=variables, output=log)
        record = {
            "pid": os.getpid(),
            "born": born(os.getpid()),
            "host": options.host,
            "port": options.port,
        }
        _write(options.state, record | {"scenario_hash": scenario_hash(scenario)})
        return _watch(stream, scenario, options, say)
    finally:
        _end(superlink, stream, gateway)
        (options.state / RECORD).unlink(missing_ok=True)


def status(state: Path) -> dict[str, Any]:
    """Return what runs here: ``up``, where it listens, clients by number, rounds done."""
    record = _read(state)
    if record is None:
        return {"up": False}
    clients = flower.presence(state=state, environment=environment(state / "flower"))
    folder = record.get("run_dir")
    rounds = [] if folder is None else read_events(Path(folder))
    return {
        "up": True,
        "pid": record["pid"],
        "address": f"{record['host']}:{record['port']}",
        "scenario_hash": record["scenario_hash"],
        "clients": clients,
        "run_dir": folder,
        "rounds_done": max((event["round"] for event in rounds), default=0),
    }


def ask_to_stop(state: Path, *, patience: float = 60.0) -> bool:
    """End the server of a state folder cleanly; False when none runs."""
    record = _read(state)
    if record is None:
        return False
    os.kill(record["pid"], signal.SIGTERM)
    limit = time.monotonic() + patience
    while born(record["pid"]) == record["born"]:
        if time.monotonic() > limit:
            raise RunStopped(f"process {record['pid']} is still there after {patience:.0f} s")
        time.sleep(0.2)
    return True


def _watch(
    stream: subprocess.Popen[bytes], scenario: Scenario, options: Options, say: Say
) -> dict[str, Any]:
    """Follow the run until its log ends, saying what happens."""
    folder: Path | None = None
    said = 0
    while True:
        ended = stream.poll() is not None
        if folder is None:
            folder = _folder(options.state, say)
        for event in read_events(folder)[said:] if folder else []:
            say(_line(event, scenario))
            said += 1
        if ended:
            break
        time.sleep(_POLL_S)
    if folder is None or not (folder / "summary.json").exists():
        raise RunStopped(f"the run ended without a result; {_reason(options.state)}")
    summary = read_summary(folder)
    if summary["status"] != "finished":
        raise RunStopped(f"the run {summary['status']}: {_reason(options.state)}")
    return summary


def _folder(state: Path, say: Say) -> Path | None:
    found = _FOLDER.search(flower.read_log(state / RUN_LOG))
    if found is None:
        return None
    folder, record = Path(found[1]), _read(state)
    if record is not None:
        _write(state, record | {"run_dir": str(folder)})
    say(f"run folder {folder}")
    return folder


def _line(event: dict[str, Any], scenario: Scenario) -> str:
    figures = {m["name"]: m["value"] for m in event["measurements"] if m["client"] < 0}
    up = sum(value for name, value in figures.items() if name.startswith("bytes_up"))
    what = f"round {event['round']}/{scenario.rounds}" if event["round"] else "set-up"
    failed = f", {len(event['failures'])} failed" if event["failures"] else ""
    return (
        f"{what}: {len(event['cohort'])} clients{failed}, {up / 1024:.1f} KiB up, "
        f"{figures.get('seconds', 0.0):.1f} s"
    )


def _reason(state: Path) -> str:
    lines = [line.strip() for line in flower.read_log(state / RUN_LOG).splitlines()]
    told = [line for line in lines if re.match(r"[\w.]*(Error|RunStopped): ", line)]
    why = told[-1].partition(": ")[2] if told else "no reason was logged"
    return f"{why} (log: {state / RUN_LOG})"


def _door(options: Options, files: ServerFiles, scenario: Scenario, inner: int) -> Door:
    facts = {
        "fedkd": importlib.metadata.version("fedkd"),
        "scenario": scenario_hash(scenario),
        "name": scenario.name,
    }
    return Door(host=options.host, port=options.port, inner=inner, files=files, facts=facts)


def _open(gateway: Gateway, options: Options) -> None:
    try:
        gateway.open()
    except OSError:
        raise ConfigError(
            f"--host {options.host} --port {options.port}: cannot listen there; is it taken?"
        ) from None


def _check_clients(files: ServerFiles, scenario: Scenario) -> None:
    missing = sorted(set(range(scenario.clients)) - set(files.clients))
    if missing:
        raise ConfigError(
            f"clients={scenario.clients}, but there are no keys of clients {missing[:10]} beside "
            f"{str(files.certificate)!r}; make them with 'fedkd certs init DIR --clients "
            f"{scenario.clients}'"
        )


def _claim(state: Path) -> None:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = _read(state)
    if record is not None:
        raise ConfigError(
            f"--state {str(state)!r}: process {record['pid']} serves there already; stop it with "
            "'fedkd server stop', or name another folder"
        )


def _end(
    superlink: subprocess.Popen[bytes],
    stream: subprocess.Popen[bytes] | None,
    gateway: Gateway | None,
) -> None:
    """End everything, the server app first: it has a run folder to close."""
    flower.end_server_app(descendants(superlink.pid))
    if stream is not None:
        stop(stream, patience=3)
    if gateway is not None:
        gateway.close()
    stop(superlink, patience=10)


def _read(state: Path) -> dict[str, Any] | None:
    """Return the record of the server that runs here; None when it is gone."""
    try:
        record = json.loads((state / RECORD).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return record if born(record["pid"]) == record["born"] else None


def _write(state: Path, record: dict[str, Any]) -> None:
    part = state / (RECORD + ".part")
    part.write_text(json.dumps(record), encoding="utf-8")
    part.replace(state / RECORD)
