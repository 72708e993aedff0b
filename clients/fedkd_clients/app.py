"""The Flower client app: Flower messages in, fleet requests out."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedkd.adversaries.base import check_devices
from fedkd.errors import ConfigError
from fedkd.runtime import Device, Runtime
from fedkd.scenario import Scenario, from_json, scenario_hash
from fedkd.transport.hello import OtherScenario
from fedkd.transport.home import Home
from fedkd.transport.inprocess import RUN_KEY, SCENARIO_KEY
from fedkd.transport.messages import Action, ErrorCode
from fedkd.transport.records import read_request, reply_records
from fedkd_clients.fleet import Fleet
from fedkd_clients.spending import Spending
from fedkd_clients.store import FileStore, MemoryStore

logger = logging.getLogger("fedkd.client")
_RUN_NAME = re.compile(r"[0-9a-f]{32}")


def device_of(runtime: Runtime) -> torch.device:
    """Return the torch device a scenario asks for; ConfigError when CUDA is not there."""
    if runtime.device is Device.CUDA and not torch.cuda.is_available():
        raise ConfigError("runtime.device: 'cuda' is asked for, but torch finds none; use cpu")
    chosen = runtime.device
    if chosen is Device.AUTO:
        chosen = Device.CUDA if torch.cuda.is_available() else Device.CPU
    return torch.device(chosen.value)


def fleet_in_memory(scenario: Scenario, ledgers: Path | None = None, *, run: str = "") -> Fleet:
    """Return a simulation's fleet, whose clients live as long as this process.

    ``ledgers`` is a folder of privacy ledgers that outlive it, in which ``run`` names this run.
    """
    device = device_of(scenario.runtime)
    spending = Spending(scenario, ledgers, run=run)
    fleet = Fleet(scenario, MemoryStore(), device=device, spending=spending, simulated=True)
    if device.type == "cpu":
        fleet.share_rows()
    return fleet


def fleet_in_files(scenario: Scenario, home: Home, folder: Path, *, whole: bool = False) -> Fleet:
    """Return a simulation's fleet, whose clients outlast this process in a folder.

    Args:
        scenario: the one of ``home``.
        home: where their privacy ledgers are.
        folder: for their states; one process at a time writes a client's.
        whole: whether all is there that a client has been sent (``FileStore``).
    """
    return Fleet(
        scenario,
        FileStore(folder, whole=whole),
        device=device_of(scenario.runtime),
        spending=Spending(scenario, Path(home.ledgers), run=home.run),
        simulated=True,
    )


def app_in_files(home: Home) -> ClientApp:
    """Return the app of a simulation whose clients are at home in files, in any process."""
    return build_app(partial(_at_home, home.to_json()))


def _at_home(text: str, _: Context) -> Fleet:
    home = Home.from_json(text)
    return fleet_in_files(_settled(text), home, Path(home.states), whole=True)


@lru_cache(maxsize=1)
def _settled(text: str) -> Scenario:
    return Home.from_json(text).settle()


def in_flower_simulation() -> bool:
    """Return whether this process hosts Flower's simulated clients: it is a Ray actor then.

    A SuperNode gives its client app a process of its own, without Ray. Nothing that a server
    sends, the run config and the message included, can turn one into the other.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    return ray.get_runtime_context().get_actor_id() is not None


@lru_cache(maxsize=1)
def _scenario(text: str) -> Scenario:
    return from_json(text)


def fleet_on_disk(context: Context) -> Fleet:
    """Return a fleet whose clients keep their state in files, for processes that come and go.

    The folder is ``state-dir`` of the node's config, else ``$FEDKD_STATE_DIR``, else one under
    the system's temporary folder; a run has its own folder in it. Privacy ledgers belong to the
    data, not to a run: a folder that was named keeps them across runs, in ``ledgers``.
    """
    scenario = _scenario(str(context.run_config[SCENARIO_KEY]))
    torch.set_num_threads(scenario.runtime.threads)
    agreed = context.node_config.get("scenario-hash")
    if agreed and agreed != scenario_hash(scenario):
        raise OtherScenario(f"this client agreed to {agreed!r} only; see 'fedkd client join'")
    simulated = in_flower_simulation()
    if not simulated:
        check_devices(scenario.attack)
    named = context.node_config.get("state-dir") or os.environ.get("FEDKD_STATE_DIR")
    base = Path(str(named)) if named else Path(tempfile.gettempdir()) / f"fedkd-{os.getuid()}"
    told = str(context.run_config.get(RUN_KEY, ""))  # the same when the server starts it again
    name = told if _RUN_NAME.fullmatch(told) else ""
    run = base / f"run-{name or context.run_id}"
    ledgers = (base if named else run) / "ledgers"
    return Fleet(
        scenario,
        FileStore(run),
        device=device_of(scenario.runtime),
        spending=Spending(scenario, ledgers, run=name),
        simulated=simulated,
        own=str(context.node_config.get("data", "")),
    )


def build_app(fleet_for: Callable[[Context], Fleet]) -> ClientApp:
    """Return the client app; ``fleet_for`` says where clients live."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        action = Action(message.metadata.message_type)
        try:
            request = read_request(message.content, action=action, client=client)
            reply = fleet_for(context).handle([request])[0]
        except Exception as error:  # an exception's text may hold private data: only its type goes
            logger.exception("client %d failed in %s", client, action.value)
            failed = Error(code=ErrorCode.RAISED, reason=type(error).__name__)
            return Message(failed, reply_to=message)
        if reply.error:
            return Message(Error(code=ErrorCode.RAISED, reason=reply.error), reply_to=message)
        return Message(reply_records(reply), reply_to=message)

    for register, name in (
        (app.query, "hello"),
        (app.train, "contribute"),
        (app.train, "round"),
        (app.train, "keys"),
        (app.train, "counts"),
        (app.train, "scores"),
        (app.query, "measure"),
    ):
        register(name)(answer)
    return app


app = build_app(fleet_on_disk)
