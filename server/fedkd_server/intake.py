"""What the server does to uploads as they arrive: checks each, then folds or keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from fedkd.types import Broadcast, Knowledge, ProxySet, Update, Upload
from fedkd_server.oracle import Holdings
from fedkd_server.validation import Expected, UploadError, check_knowledge, check_update, finite


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
        harvest, sound = Harvest(), dict[int, Upload]()
        for request, reply, seconds in self._arrived(harvest, requests, replies):
            if reply is None:
                harvest.failures.append((request.client, Loss.NO_ANSWER.value))
                continue
            harvest.waited = max(harvest.waited, seconds)
            upload = self._in_time(harvest, request, reply, seconds, keep=keep)
            if upload is not None:
                sound[request.client] = upload
        self._fold(harvest, sound, keep=keep)
        return harvest

    def take_overdue(self, requests: Sequence[Request], replies: Sequence[Reply]) -> Harvest:
        """Check answers to requests of the round before that came in this one."""
        harvest = Harvest()
        for request, reply in zip(requests, replies, strict=True):
            upload, _ = self._checked(harvest, request, reply)
            if upload is not None:
                harvest.stand_ins[request.client] = upload
        return harvest

    def _arrived(
        self, harvest: Harvest, requests: Sequence[Request], replies: Sequence[Reply]
    ) -> Iterator[tuple[Request, Reply | None, float]]:
        """Yield every request with the reply that counts, and after how many virtual seconds."""
        if self._channel.clear and not self._scenario.devices:
            for request, reply in zip(requests, replies, strict=True):
                yield request, reply, 0.0
            return
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
                yield request, None, 0.0
            else:
                yield request, counted.reply, counted.seconds

    def _in_time(
        self, harvest: Harvest, request: Request, reply: Reply, seconds: float, *, keep: bool
    ) -> Upload | None:
        """Return a reply's upload, if it can be used in this round; else say why not."""
        deadline, client = self._scenario.deadline_s, request.client
        late = deadline is not None and seconds > deadline
        if late and not self._keeps_late:
            harvest.failures.append((client, Loss.LATE.value))
            return None
        upload, reason = self._checked(harvest, request, reply, in_sum=not (late or keep))
        if not reason and late:
            reason = Loss.LATE.value
            if upload is not None:
                harvest.late[client] = upload
        if reason:
            harvest.failures.append((client, reason))
            return None
        return upload

    def _checked(
        self, harvest: Harvest, request: Request, reply: Reply, *, in_sum: bool = False
    ) -> tuple[Upload | None, str]:
        """Return a reply's upload and why it cannot be used; neither where none is due.

        ``in_sum`` is whether its numbers are looked at when they are added up (:meth:`_fold`).
        """
        if reply.error:
            return None, reply.error
        harvest.answered.append(request.client)
        if reply.client != request.client:
            return None, Loss.OTHER_CLIENT.value
        try:
            for kind, size in message_size(reply).items():
                harvest.bytes_up[kind] += size
            return self._sound(reply, request.incoming, in_sum=in_sum), ""
        except UploadError as error:
            return None, f"dropped: {error}"
        except Exception as error:  # whatever an upload provokes is its client's failure
            return None, f"dropped: {type(error).__name__}"

    def _sound(self, reply: Reply, sent: Broadcast | None, *, in_sum: bool) -> Upload | None:
        if self._method.message is MessageKind.KNOWLEDGE:
            return check_knowledge(reply.upload, self.expected())
        if self._method.message is MessageKind.UPDATE:
            return check_update(reply.upload, sent, in_sum=in_sum)
        return None

    def _fold(self, harvest: Harvest, sound: dict[int, Upload], *, keep: bool) -> None:
        """Keep a group's uploads or fold them; an update that is not finite shows in the sums."""
        if self._holdings is not None:
            for client, upload in sound.items():
                if isinstance(upload, Knowledge):
                    harvest.tallies.update(self._holdings.tally(client, upload))
        if keep:
            harvest.uploads |= sound
        if keep or not sound:
            return
        n_rows = 0 if self._proxy is None else self._proxy.n_rows
        state = self._method.fold(None, list(sound.values()), n_rows=n_rows)
        if self._method.message is MessageKind.UPDATE and not self._all_finite(state):
            left = [u for client, u in sound.items() if self._finite(harvest, client, u)]
            if not left:
                return
            state = self._method.fold(None, left, n_rows=n_rows)
        node = (0, group_of(next(iter(sound)), n_clients=self._scenario.clients))
        harvest.states[node] = state

    def _all_finite(self, state: Any) -> bool:
        sums, _ = self._method.to_tensors(state)
        return all(map(finite, sums.values()))

    def _finite(self, harvest: Harvest, client: int, upload: Upload) -> bool:
        """Drop an update whose numbers are not finite."""
        if not isinstance(upload, Update) or all(map(finite, upload.arrays.values())):
            return True
        harvest.failures.append((client, "dropped: numbers that are not finite"))
        return False


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
