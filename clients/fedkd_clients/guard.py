"""One client's failure is its own: what it raises is kept, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("fedkd.client")
Result = TypeVar("Result")


class Guard:
    """Who failed in the round under way, and with what."""

    def __init__(self) -> None:
        self._failures: dict[int, Exception] = {}

    def do(self, client: int, what: Callable[[int], Result]) -> Result | None:
        """Do something for one client; None where it fails, or failed before."""
        if client in self._failures:
            return None
        try:
            return what(client)
        except Exception as error:
            logger.exception("client %d failed", client)
            self._failures[client] = error
            return None

    def fail(self, client: int, error: Exception) -> None:
        """Take note of what kept a client from finishing its round."""
        self._failures.setdefault(client, error)

    def take(self, client: int) -> Exception | None:
        """Return what the client raised since the last call, or None."""
        return self._failures.pop(client, None)
