"""What the server does to uploads as they arrive: checks each, then folds or keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedkd.data.federation import load
from fedkd.devices.clock import spent
from fedkd.faults.channel import Channel
from fedkd.methods.base import CoDistillation, MessageKind
from fedkd.results import Loss
from fedkd.scenario import LatePolicy, Scenario
from fedkd.transport.batch import Harvest, climb, group_of, groups_of
from fedkd.transport.messages import Delivery, Reply, Request
from fedkd.transport.reading import Limits
from fedkd.transport.sizes import message_size
from fedkd.types import Broadcast, Knowledge, ProxySet, Upload
from fedkd_server.oracle import Holdings
from fedkd_server.validation import Expected, UploadError, check_knowledge, check_update


class UploadIntake:
    """One for each process that holds clients of a simulation, and one on a real server."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario, self._method = scenario, scenario.method
        self._channel = Channel(scenario)
        self._keeps_late = scenario.late_policy is LatePolicy.NEXT_ROUND
        self._proxy: ProxySet | None = None
        self._holdings: Holdings | None = None

    def learn(self, proxy: ProxySet) -> None:
        """Take note of the proxy set that uploads are about."""
        self._proxy, self._holdings = proxy, Holdings(self._scenario, proxy)

    def expected(self) -> Expected:
        """Return what an upload of knowledge must look like."""
        if not isinstance(self._method, CoDistillation) or self._proxy is None:
            raise ValueError("a method that exchanges knowledge needs a distiller and a proxy set")
        temperature = self._method.distiller.teacher_temperature
        return Expected(
            space=self._method.distiller.space,
            temperature=temperature,
            n_rows=self._proxy.n_rows,
            n_classes=load(self._scenario.data).n_classes,
            row_temperatures=self._scenario.protector.row_temperatures(temperature=temperature),
            wire=self._scenario.wire,
        )

    def limits(self) -> Limits:
        """Return the most that an upload may hold, as far as it is known by now."""
        if self._method.message is not MessageKind.KNOWLEDGE or self._proxy is None:
            return Limits()
        n_classes = load(self._scenario.data).n_classes
        return Limits.of_knowledge(n_rows=self._proxy.n_rows, n_classes=n_classes)

    def take(self, requests: Sequence[Request], replies: Sequence[Reply], *, keep: bool) -> Harvest:
        """Check one group's replies, ascending by client, and fold or ``keep`` the uploads.

        In a simulation the scenario's faults stand between the replies and what arrives.
        """
        harvest = Harvest()
        arrived: dict[int, list[Delivery]] = {}
        for request, reply in zip(requests, replies, strict=True):
            took = spent(self._scenario, request, reply)
            if took is not None:
                harvest.spent[request.client] = (took.seconds, took.joules)
        sent_at = {client: seconds for client, (seconds, _) in harvest.spent.items()}
        for delivery in self._channel.carry(requests, replies, sent_at=sent_at):
            arrived.setdefault(delivery.client, []).append(delivery)
        for request in requests:
            counted = _admitted(harvest, request, arrived.get(request.client, []))
            if counted is None:
                harvest.failures.append((request.client, Loss.NO_ANSWER.value))
            else:
                harvest.waited = max(harvest.waited, counted.seconds)
                self._take_one(harvest, request, counted, keep=keep)
        return harvest

    def take_overdue(self, requests: Sequence[Request], replies: Sequence[Reply]) -> Harvest:
        """Check answers to requests of the round before that came in this one."""
        harvest = Harvest()
        for request, reply in zip(requests, replies, strict=True):
            upload, _ = self._checked(harvest, request, reply)
            if upload is not None:
                harvest.stand_ins[request.client] = upload
        return harvest

    def _take_one(
        self, harvest: Harvest, request: Request, delivery: Delivery, *, keep: bool
    ) -> None:
        deadline, client = self._scenario.deadline_s, request.client
        late = deadline is not None and delivery.seconds > deadline
        if late and not self._keeps_late:
            harvest.failures.append((client, Loss.LATE.value))
            return
        upload, reason = self._checked(harvest, request, delivery.reply)
        if not reason and late:
            reason = Loss.LATE.value
            if upload is not None:
                harvest.late[client] = upload
        if reason:
            harvest.failures.append((client, reason))
        elif upload is not None:
            self._fold(harvest, client, upload, keep=keep)

    def _checked(
        self, harvest: Harvest, request: Request, reply: Reply
    ) -> tuple[Upload | None, str]:
        """Return a reply's upload and why it cannot be used; neither where none is due."""
        if reply.error:
            return None, reply.error
        harvest.answered.append(request.client)
        if reply.client != request.client:
            return None, Loss.OTHER_CLIENT.value
        try:
            harvest.bytes_up.update(message_size(reply))
            return self._sound(reply, request.incoming), ""
        except UploadError as error:
            return None, f"dropped: {error}"
        except Exception as error:  # whatever an upload provokes is its client's failure
            return None, f"dropped: {type(error).__name__}"

    def _sound(self, reply: Reply, sent: Broadcast | None) -> Upload | None:
        if self._method.message is MessageKind.KNOWLEDGE:
            return check_knowledge(reply.upload, self.expected())
        if self._method.message is MessageKind.UPDATE:
            return check_update(reply.upload, sent)
        return None

    def _fold(self, harvest: Harvest, client: int, upload: Upload, *, keep: bool) -> None:
        if isinstance(upload, Knowledge) and self._holdings is not None:
            harvest.tallies.update(self._holdings.tally(client, upload))
        if keep:
            harvest.uploads[client] = upload
            return
        n_rows = 0 if self._proxy is None else self._proxy.n_rows
        node = (0, group_of(client, n_clients=self._scenario.clients))
        state = harvest.states.get(node)
        harvest.states[node] = self._method.accumulate(state, upload, n_rows=n_rows)


def _admitted(harvest: Harvest, request: Request, arrived: Sequence[Delivery]) -> Delivery | None:
    """Return the delivery that counts, the first for this round; every other one is refused."""
    counted: Delivery | None = None
    for delivery in arrived:
        if delivery.round != request.round:
            harvest.refused.append((request.client, Loss.OTHER_ROUND.value))
        elif counted is not None:
            harvest.refused.append((request.client, Loss.SECOND.value))
        else:
            counted = delivery
    return counted


def merged(
    harvests: Sequence[Harvest],
    scenario: Scenario,
    *,
    n_rows: int,
    late: Mapping[int, Upload] | None = None,
) -> tuple[Harvest, Any]:
    """Return all harvests as one, and what all uploads came to; None for none.

    The groups' sums are added up their tree, and last those of who stands in: ``late`` are uploads
    of the round before that missed it; each is used where its client gave nothing usable in this
    round, and in no later one.
    """
    whole, method = Harvest.of(harvests), scenario.method
    for client in sorted(whole.uploads):  # that were kept
        node = (0, group_of(client, n_clients=scenario.clients))
        state, upload = whole.states.get(node), whole.uploads[client]
        whole.states[node] = method.accumulate(state, upload, n_rows=n_rows)
    everybody = groups_of(scenario.clients)
    top = climb(whole.states, method.merge, within=everybody, n_clients=scenario.clients)
    (state,) = top.values() or (None,)
    waiting = dict(late or {}) | whole.stand_ins
    missing = waiting.keys() - (set(whole.answered) - {client for client, _ in whole.failures})
    part, whole.stand_ins, whole.states = None, {}, {}
    for client in sorted(missing):
        whole.stand_ins[client] = whole.uploads[client] = waiting[client]
        part = method.accumulate(part, waiting[client], n_rows=n_rows)
    if part is not None:
        state = part if state is None else method.merge(state, part)
    whole.failures.sort()
    whole.refused.sort()
    return whole, state
