"""The last thing done to an upload on the client's side: it is protected and encoded."""

from __future__ import annotations

from functools import partial

from fedkd.methods.base import CoDistillation
from fedkd.privacy.settings import ServerView
from fedkd.protectors.base import Context, dense
from fedkd.rng import noise_stream
from fedkd.scenario import Scenario
from fedkd.transport.codes import as_sent
from fedkd.transport.messages import Request
from fedkd.types import Consensus, Knowledge, Upload
from fedkd_clients.adversary import poisoned_upload
from fedkd_clients.learner import FleetLearner


def protected(
    scenario: Scenario, learner: FleetLearner, request: Request, upload: Upload | None
) -> Upload | None:
    """Return a client's upload as it leaves, or as an attacker of the scenario would have it."""
    if not isinstance(upload, Knowledge):
        return upload
    client, method, protector = request.client, scenario.method, scenario.protector
    proxy = learner.state(client).proxy
    if proxy is None:
        raise RuntimeError(f"client {client} has knowledge but no proxy set")
    rng = noise_stream(scenario.noise_seed(), "protection", round=request.round, client=client)
    surroundings = Context(
        proxy=proxy,
        consensus=request.incoming if isinstance(request.incoming, Consensus) else None,
        temperature=method.distiller.teacher_temperature
        if isinstance(method, CoDistillation)
        else 1.0,
        closeness=partial(learner.closeness, client) if protector.reads_private else None,
    )
    if client in scenario.attackers():
        state, encoded = learner.state(client), method.encode(upload)
        leaving = poisoned_upload(scenario, state, encoded, surroundings, request=request)
    else:
        leaving = method.encode(protector.protect(upload, surroundings, rng=rng))
    if scenario.server_view is ServerView.SUMS and isinstance(leaving, Knowledge):
        return dense(leaving, n_classes=learner.task.n_classes)  # sums are over all classes
    return as_sent(leaving, scenario.wire)
