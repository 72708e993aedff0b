"""The far end of a worker on Ray: an actor that hosts some groups of clients, bytes in, bytes out.

Ray carries names and bytes, never an object of ours: an actor makes its own clients and its own
intake, out of the fedkd that is installed where it runs.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

from fedkd.transport.frame_grid import Respond, responder
from fedkd.transport.frames import Frame, pack
from fedkd.transport.home import Home, part

SEAL = "seal"
"""A file among the clients' states that says whether a machine sees the very same folder."""
logger = logging.getLogger("fedkd.client")


class Host:
    """Answers frames once it is open. What goes wrong then ends its process, as in a fork."""

    def __init__(self) -> None:
        self._respond: Respond = _not_open

    def open(self, facts: bytes) -> bytes:
        """Make the clients that ``facts`` describe; return where they are, or what is wrong."""
        try:
            self._respond = _made(json.loads(facts))
        except Exception as error:
            return json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()
        return json.dumps({"process": os.getpid(), "machine": socket.gethostname()}).encode()

    def answer(self, header: bytes, *blobs: bytes) -> bytes:
        """Answer one frame, whose byte strings come one by one."""
        try:
            return pack(*self._respond((json.loads(header), list(blobs))))
        except Exception:  # it would cross pickled, with all that it holds
            logger.exception("a worker failed")
            os._exit(1)


def _not_open(frame: Frame) -> Frame:
    raise RuntimeError("a frame came before the worker was open")


def _made(facts: dict[str, Any]) -> Respond:
    home = Home.from_json(facts["home"])
    seal = Path(home.states) / SEAL
    if not seal.exists() or seal.read_text(encoding="utf-8") != facts["sealed"]:
        raise FileNotFoundError(f"{socket.gethostname()} does not see {str(seal.parent)!r}")
    scenario = home.settle()
    clients = part(facts["fleet"])(scenario, home, Path(home.states) / facts["room"])
    intake = part(facts["intake"])(scenario)
    return responder(clients, intake, method=scenario.method, n_clients=scenario.clients)
