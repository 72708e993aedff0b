"""Where simulated clients live that outlast their process, told to processes on any machine."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fedkd.scenario import Scenario, from_json

logger = logging.getLogger("fedkd.client")


@dataclass(frozen=True, kw_only=True)
class Home:
    """Names and paths, as text; all machines have to see the paths.

    Attributes:
        scenario: with every noise multiplier known, as JSON.
        run: names the run in the clients' ledgers.
        states: a folder for the clients' states.
        ledgers: a folder for their privacy ledgers.
        errors: the file that their tracebacks go to.
        plugins: Python files that register components of the user's own.
    """

    scenario: str
    run: str
    states: str
    ledgers: str
    errors: str
    plugins: Sequence[str] = ()

    def to_json(self) -> str:
        """Return what :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Home:
        """Return the home that was written; TypeError when it is another version's."""
        return Home(**json.loads(text))

    def settle(self) -> Scenario:
        """Prepare this process for its clients, and return their scenario."""
        torch.set_num_threads(1)
        log_client_errors(Path(self.errors))
        if self.plugins:
            from fedkd.plugins import load_plugins

            load_plugins(self.plugins)
        return from_json(self.scenario)


def part(reference: str) -> Any:
    """Return ``module:attribute``; the two sides are reached by name, never imported."""
    module, attribute = reference.split(":")
    return getattr(importlib.import_module(module), attribute)


def log_client_errors(path: Path) -> logging.Handler:
    """Send client tracebacks to a file: they may hold private data and never reach the server."""
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    return handler
