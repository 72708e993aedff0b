"""The proxy set as the server holds it: pooled from clients, or its own rows."""

from __future__ import annotations

import torch

from fedkd.data.federation import arrays_of, external_rows, load
from fedkd.errors import RunStopped
from fedkd.results import Failure
from fedkd.scenario import Scenario
from fedkd.transport.messages import Action, Request
from fedkd.types import ProxySet, ProxySource
from fedkd_server.exchange import Answers, Exchange
from fedkd_server.validation import UploadError, check_contribution


def gather_proxy(exchange: Exchange, scenario: Scenario) -> tuple[ProxySet, Answers]:
    """Return the proxy set and what gathering it cost."""
    if scenario.proxy.source is ProxySource.EXTERNAL:
        return _external(scenario), Answers()
    clients = scenario.participants()
    answers = exchange.ask([Request(action=Action.CONTRIBUTE, client=c) for c in clients])
    parts = _accepted(answers, scenario, simulated=exchange.simulated)
    if not parts:
        reasons = {failure.reason for failure in answers.failures}
        raise RunStopped(f"set-up: no client gave proxy rows ({', '.join(sorted(reasons))})")
    owner = [torch.full((len(part),), client) for client, part in parts.items()]
    return ProxySet(
        inputs=torch.cat([part.inputs for part in parts.values()]),
        ids=torch.cat([part.ids for part in parts.values()]),
        owner=torch.cat(owner),
        source=ProxySource.POOLED,
        rows_per_input=load(scenario.data).task.rows_per_input,
    ), answers


def _accepted(
    answers: Answers, scenario: Scenario, *, simulated: frozenset[int]
) -> dict[int, ProxySet]:
    """Return the sound contributions; ids of a client on a device may be those of its own rows."""
    parts: dict[int, ProxySet] = {}
    expected = arrays_of(scenario.layout()).train_inputs
    like, n_ids = torch.from_numpy(expected[:1]), len(expected)
    for client, reply in answers.replies.items():
        try:
            limit = n_ids if client in simulated else None
            given = reply.contribution
            parts[client] = check_contribution(given, like=like, n_ids=limit, most=n_ids)
        except UploadError as error:
            answers.failures.append(Failure(round=0, client=client, reason=str(error)))
    return parts


def _external(scenario: Scenario) -> ProxySet:
    rows = external_rows(scenario.layout())
    return ProxySet(
        inputs=torch.from_numpy(arrays_of(scenario.layout()).train_inputs[rows]),
        ids=torch.from_numpy(rows),
        owner=None,
        source=ProxySource.EXTERNAL,
        rows_per_input=load(scenario.data).task.rows_per_input,
    )
