"""Sending messages to real clients and waiting for the answers, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from fedkd.faults.settings import LatePolicy
from fedkd.transport.messages import Request

_BETWEEN_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Wait:
    """How long answers of a round are waited for.

    Attributes:
        seconds: None waits for all of them.
        late: what becomes of the others.
    """

    seconds: float | None = None
    late: LatePolicy = LatePolicy.DROP

    @property
    def lifetime_s(self) -> float | None:
        """How long a message is worth answering; a client skips those that are older.

        Flower keeps messages for 12 hours, and a slow client would do one stale round after the
        other. An answer that may stand in next round is good until that ends.
        """
        if self.seconds is None or self.late is LatePolicy.DROP:
            return self.seconds
        return 2 * self.seconds


@dataclass(eq=False, kw_only=True)
class Postbox:
    """The messages under way.

    Attributes:
        grid: carries them.
        wait: how long.
    """

    grid: Grid
    wait: Wait
    _open: dict[str, Request] = field(default_factory=dict[str, Request])

    def exchange(
        self, messages: Sequence[Message], requests: Sequence[Request]
    ) -> tuple[list[Message], list[tuple[Request, Message]]]:
        """Return the answers that came in time, and answers to the requests of the call before.

        Args:
            messages: one for each request.
            requests: what they ask.
        """
        if self.wait.seconds is None or self.wait.late is LatePolicy.DROP:
            return list(self.grid.send_and_receive(messages, timeout=self.wait.seconds)), []
        earlier, limit = self._open, time.monotonic() + self.wait.seconds
        self._open = dict(zip(self.grid.push_messages(messages), requests, strict=True))
        answers: list[Message] = []
        overdue: list[tuple[Request, Message]] = []
        while True:
            for message in self.grid.pull_messages([*self._open, *earlier]):
                question = message.metadata.reply_to_message_id
                if self._open.pop(question, None) is not None:
                    answers.append(message)
                elif question in earlier:
                    overdue.append((earlier.pop(question), message))
            left = limit - time.monotonic()
            if not self._open or left <= 0:
                return answers, overdue
            time.sleep(min(_BETWEEN_S, left))
