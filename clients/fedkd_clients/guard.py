"""One client's failure is its own: what it raises is kept, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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

    def together(
        self,
        clients: Sequence[int],
        what: Callable[[Sequence[int]], object],
        *,
        alone: Callable[[int], object] | None = None,
    ) -> None:
        """Do something for all that have not failed at once, or else one by one.

        ``alone`` is what is tried for one client; None for the same.
        """
        left = [client for client in clients if client not in self._failures]
        try:
            if left:
                what(left)
        except Exception:
            for client in left:
                self.do(client, alone or (lambda c: what([c])))

    def fail(self, client: int, error: Exception) -> None:
        """Take note of what kept a client from finishing its round."""
        self._failures.setdefault(client, error)

    def take(self, client: int) -> Exception | None:
        """Return what the client raised since the last call, or None."""
        return self._failures.pop(client, None)
