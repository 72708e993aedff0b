"""How much one client, and one connection, may take of a server: bytes, requests and time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

MOST_BYTES = 16 * 2**20
"""Largest body of a request with an object of a message; Flower cuts arrays into 5 MiB."""
MOST_BYTES_OTHERWISE = 2**18
"""Largest body of any other request: they hold ids, not numbers."""
MOST_BYTES_AN_ANSWER = 512 * 2**20
"""What the objects of one answer may hold together."""
MOST_AT_ONCE = 8
"""Requests of one key that are under way; Flower's client has up to five."""
BODY_S, SILENT_S, WHOLE_S = 60.0, 20.0, 180.0
"""Seconds for a body; for the head of a request; and for all of one, its answer included."""


class TooMuch(Exception):
    """A request that is more than its client may send; ``status`` is the HTTP answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def body_of(request: Request, *, most: int, seconds: float = BODY_S) -> bytes:
    """Return a request's body; TooMuch when it is too long, or too long in coming."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise TooMuch(413, f"more than {most} bytes")
    except TimeoutError:
        raise TooMuch(408, f"the body took more than {seconds:.0f} s") from None
    return bytes(body)


@dataclass(eq=False, kw_only=True)
class Allowance:
    """What each key has under way, and has sent since it was last asked something.

    Attributes:
        most: bytes of one answer's objects.
    """

    most: int
    _under_way: Counter[bytes] = field(default_factory=Counter[bytes])
    _sent: Counter[bytes] = field(default_factory=Counter[bytes])

    @contextmanager
    def request(self, key: bytes) -> Generator[None]:
        """Count a request while it is under way; TooMuch when there are too many."""
        if self._under_way[key] >= MOST_AT_ONCE:
            raise TooMuch(429, f"more than {MOST_AT_ONCE} requests at once")
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1

    def begin(self, key: bytes) -> None:
        """Note that the client was asked something: it may send an answer's objects again."""
        self._sent[key] = 0

    def add(self, key: bytes, size: int) -> None:
        """Count an object of an answer; TooMuch when they are too large together."""
        if self._sent[key] + size > self.most:
            raise TooMuch(413, f"an answer of more than {self.most} bytes")
        self._sent[key] += size


class Doorkeeper:
    """Ends connections that say nothing, or that never finish what they began.

    Args:
        connections: uvicorn's, each with its ``transport`` and its request's ``cycle``.
        clock: seconds.
    """

    def __init__(
        self, connections: Callable[[], set[Any]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connections, self._clock = connections, clock
        self._seen: dict[Any, tuple[Any, bool, float]] = {}

    async def look(self) -> None:
        """End those that are as they were too long ago."""
        now, before = self._clock(), self._seen
        self._seen = {}
        for connection in list(self._connections()):
            cycle = connection.cycle
            busy = cycle is not None and not cycle.response_complete
            known, was_busy, since = before.get(connection, (None, False, now))
            if known is not cycle or was_busy != busy:
                since = now
            self._seen[connection] = (cycle, busy, since)
            if now - since > (WHOLE_S if busy else SILENT_S):
                connection.transport.abort()
