"""The way from clients to the server: what becomes of uploads on it, in a simulation.

Wherever replies arise (this process, a worker, a Flower message), the server's intake hears them
through a channel, so that the same faults hit the same uploads on every grid. Every decision is
drawn from a stream of its own kind, round and client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from fedkd.faults.settings import Faults
from fedkd.rng import numpy_stream
from fedkd.transport.messages import Delivery, Reply, Request
from fedkd.transport.records import bytes_of_reply, reply_of_bytes

if TYPE_CHECKING:
    from fedkd.scenario import Scenario

MOST_BYTES_CHANGED = 8


class Channel:
    """Carries the replies of a group of clients; remembers their last bytes where they replay."""

    def __init__(self, scenario: Scenario) -> None:
        self._faults = Faults() if scenario.faults is None else scenario.faults
        self._seed = scenario.training_seed()
        self._earlier: dict[int, tuple[int, bytes]] = {}

    @property
    def clear(self) -> bool:
        """Whether every reply arrives as it is, once and at once."""
        return self._faults == Faults()

    def carry(
        self,
        requests: Sequence[Request],
        replies: Sequence[Reply],
        *,
        sent_at: Mapping[int, float] = MappingProxyType({}),
    ) -> list[Delivery]:
        """Return what arrives, in the order of arrival: of a client none, one or several.

        ``sent_at`` are the virtual seconds after which a client's device was done with its round.
        """
        arrived: list[Delivery] = []
        for request, reply in zip(requests, replies, strict=True):
            if reply.error:  # it is the client's last word, and short
                arrived.append(Delivery(client=request.client, round=request.round, reply=reply))
            else:
                arrived += self._sent(request, reply, sent_at.get(request.client, 0.0))
        if self._faults.reorder and requests:
            rng = self._stream("order", requests[0])
            return [arrived[n] for n in rng.permutation(len(arrived))]
        return sorted(arrived, key=lambda delivery: delivery.seconds)

    def _sent(self, request: Request, reply: Reply, at: float) -> list[Delivery]:
        """Return what arrives of one upload."""
        arrived = self._replayed(request, reply)
        if self._happens("drop", request):
            return arrived
        delivery = Delivery(
            client=request.client,
            round=request.round,
            reply=self._as_read(request, reply),
            seconds=at + self._delay("delay", request),
        )
        arrived.append(delivery)
        if self._happens("duplicate", request):
            more = self._delay("second delay", request)
            arrived.append(replace(delivery, seconds=delivery.seconds + more))
        return arrived

    def _replayed(self, request: Request, reply: Reply) -> list[Delivery]:
        """Return the client's upload of an earlier round, and remember this one."""
        if not self._faults.replay:
            return []
        earlier = self._earlier.get(request.client)
        self._earlier[request.client] = (request.round, bytes_of_reply(reply))
        if earlier is None or not self._happens("replay", request):
            return []
        round, data = earlier
        return [Delivery(client=request.client, round=round, reply=reply_of_bytes(data))]

    def _as_read(self, request: Request, reply: Reply) -> Reply:
        """Return what the server reads: the reply itself, or what its damaged bytes say."""
        truncated, corrupted = (self._happens(what, request) for what in ("truncate", "corrupt"))
        if not truncated and not corrupted:
            return reply
        data = bytes_of_reply(reply)
        if truncated:
            data = data[: self._stream("length", request).integers(len(data))]
        if corrupted:
            data = corrupt(data, rng=self._stream("bytes", request))
        try:
            return reply_of_bytes(data)
        except Exception as error:  # whatever damaged bytes provoke is that client's failure
            unreadable = f"unreadable reply ({type(error).__name__})"
            return Reply(client=request.client, error=unreadable)

    def _delay(self, what: str, request: Request) -> float:
        least, most = self._faults.delay_s
        if not most:
            return 0.0
        drawn = least + (most - least) * self._stream(what, request).random()
        return drawn * self._faults.slowness(self._seed, request.client)

    def _happens(self, what: str, request: Request) -> bool:
        share: float = getattr(self._faults, what)
        return share > 0 and self._stream(what, request).random() < share

    def _stream(self, what: str, request: Request) -> np.random.Generator:
        return numpy_stream(self._seed, f"fault {what}", round=request.round, client=request.client)


def corrupt(data: bytes, *, rng: np.random.Generator) -> bytes:
    """Return ``data`` with one to eight of its bytes changed; no bytes have nothing to change."""
    changed = np.frombuffer(data, dtype=np.uint8).copy()
    if not len(changed):
        return data
    count = min(len(changed), int(rng.integers(1, MOST_BYTES_CHANGED + 1)))
    places = rng.choice(len(changed), count, replace=False)
    changed[places] ^= rng.integers(1, 256, count, dtype=np.uint8)
    return changed.tobytes()
