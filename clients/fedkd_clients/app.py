"""The Flower client app: Flower messages in, fleet requests out."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedkd.errors import ConfigError
from fedkd.runtime import Device, Runtime
from fedkd.scenario import Scenario, from_json, scenario_hash
from fedkd.transport.hello import OtherScenario
from fedkd.transport.inprocess import SCENARIO_KEY
from fedkd.transport.messages import Action, ErrorCode
from fedkd.transport.records import read_request, reply_records
from fedkd_clients.fleet import Fleet
from fedkd_clients.store import FileStore, MemoryStore

logger = logging.getLogger("fedkd.client")


def device_of(runtime: Runtime) -> torch.device:
    """Return the torch device a scenario asks for; ConfigError when CUDA is not there."""
    if runtime.device is Device.CUDA and not torch.cuda.is_available():
        raise ConfigError("runtime.device: 'cuda' is asked for, but torch finds none; use cpu")
    chosen = runtime.device
    if chosen is Device.AUTO:
        chosen = Device.CUDA if torch.cuda.is_available() else Device.CPU
    return torch.device(chosen.value)


def fleet_in_memory(scenario: Scenario, ledgers: Path | None = None) -> Fleet:
    """Return a simulation's fleet, whose clients live as long as this process.

    ``ledgers`` is a folder of privacy ledgers that outlive it.
    """
    device = device_of(scenario.runtime)
    fleet = Fleet(scenario, MemoryStore(), device=device, ledgers=ledgers, simulated=True)
    if device.type == "cpu":
        fleet.share_rows()
    return fleet


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
    named = context.node_config.get("state-dir") or os.environ.get("FEDKD_STATE_DIR")
    base = Path(str(named)) if named else Path(tempfile.gettempdir()) / f"fedkd-{os.getuid()}"
    run = base / f"run-{context.run_id}"
    ledgers = (base if named else run) / "ledgers"
    return Fleet(
        scenario,
        FileStore(run),
        device=device_of(scenario.runtime),
        ledgers=ledgers,
        simulated=in_flower_simulation(),
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
