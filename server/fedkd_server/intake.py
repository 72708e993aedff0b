"""What the server does to uploads as they arrive: checks each, then folds or keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedkd.data.federation import load
from fedkd.methods.base import CoDistillation, MessageKind
from fedkd.scenario import Scenario
from fedkd.transport.batch import Harvest
from fedkd.transport.messages import Reply, Request
from fedkd.transport.sizes import message_size
from fedkd.types import Broadcast, Knowledge, ProxySet, Upload
from fedkd_server.oracle import Holdings
from fedkd_server.validation import Expected, UploadError, check_knowledge, check_update


class UploadIntake:
    """One for each process that holds clients of a simulation, and one on a real server."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario, self._method = scenario, scenario.method
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

    def take(self, requests: Sequence[Request], replies: Sequence[Reply], *, keep: bool) -> Harvest:
        """Check one group's replies, ascending by client, and fold or ``keep`` the uploads."""
        harvest = Harvest()
        for request, reply in zip(requests, replies, strict=True):
            if reply.error:
                harvest.failures.append((reply.client, reply.error))
                continue
            harvest.answered.append(reply.client)
            harvest.bytes_up.update(message_size(reply))
            try:
                upload = self._sound(reply, request.incoming)
            except UploadError as error:
                harvest.failures.append((reply.client, f"dropped: {error}"))
                continue
            if upload is not None:
                self._fold(harvest, reply.client, upload, keep=keep)
        return harvest

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
        harvest.state = self._method.accumulate(harvest.state, upload, n_rows=n_rows)


def merged(harvests: Sequence[Harvest], scenario: Scenario, *, n_rows: int) -> Harvest:
    """Return all harvests as one: sums of sums, group by group."""
    whole, method = Harvest(), scenario.method
    state: Any = None
    for harvest in harvests:
        whole.answered += harvest.answered
        whole.failures += harvest.failures
        whole.tallies.update(harvest.tallies)
        whole.bytes_up.update(harvest.bytes_up)
        part = harvest.state
        for client, upload in harvest.uploads.items():
            whole.uploads[client] = upload
            part = method.accumulate(part, upload, n_rows=n_rows)
        if part is not None:
            state = part if state is None else method.merge(state, part)
    whole.state = state
    whole.failures.sort()
    return whole
