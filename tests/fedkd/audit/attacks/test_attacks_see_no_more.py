"""An attack that looks at more than its adversary's channel is a failure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkd.audit.attacks.base import attacks
from fedkd.audit.views import Adversary, Channel, NotSeen
from tests.fedkd.audit.attacks.audited import LEAKY, Audited

MAY_READ = {
    Channel.STUDENT: {"student"},
    Channel.CONSENSUS: {"rounds", "proxy", "consensus"},
    Channel.UPLOADS: {"rounds", "proxy", "uploads"},
    Channel.SIDE: {"rounds", "proxy", "uploads"},
}
"""Beside its channel an adversary knows the rounds and the proxy set, where it was sent it."""
SERVER_MADE = {"consensus", "student"}
"""What an attack on uploads may read besides: the server made it from them."""
MORE = {"canary_clients": {"uploads"}}
"""The server knows how many answered; it simulates further clients beside them."""


class Watched:
    """Hands out what the real view does, for the declared channel and nothing else."""

    def __init__(self, view, allowed, *, blind):
        self._view, self._allowed, self._blind = view, allowed, blind
        self.adversary, self.asked = view.adversary, set()

    def _ask(self, name):
        self.asked.add(name)
        if name not in self._allowed:
            raise NotSeen(f"{name} is not what this attack declares")

    def rounds(self):
        self._ask("rounds")
        return self._view.rounds()

    def proxy(self):
        self._ask("proxy")
        return self._view.proxy()

    def uploads(self, round):
        self._ask("uploads")
        sent = self._view.uploads(round)
        if not self._blind:
            return sent
        return {c: replace(u, scores=torch.full_like(u.scores, torch.nan)) for c, u in sent.items()}

    def consensus(self, round):
        self._ask("consensus")
        return self._view.consensus(round)

    def student(self):
        self._ask("student")
        return self._view.student()


@pytest.fixture(scope="module")
def leaky(simulated):
    return Audited.of(simulated(*LEAKY).path)


@pytest.mark.parametrize("name", attacks.names())
def test_it_reads_its_own_channel_only(leaky, name):
    attack = attacks.get(name)()
    assert attack.applies(leaky.bench, leaky.truth) == ""
    allowed = MAY_READ[attack.channel] | MORE.get(name, set())
    if attack.channel is Channel.UPLOADS:
        assert attack.adversary is Adversary.SERVER
        allowed |= SERVER_MADE
    view = Watched(leaky.view(attack.adversary), allowed, blind=attack.channel is Channel.SIDE)
    attack.run(view, leaky.bench, leaky.truth, rng=np.random.default_rng(0))
    assert view.asked <= allowed
    assert view.asked, "an attack that reads nothing found nothing in the run"


@pytest.mark.parametrize("name", attacks.names())
def test_it_gives_up_where_its_channel_was_not_seen(leaky, name):
    attack = attacks.get(name)()
    view = Watched(leaky.view(attack.adversary), set(), blind=False)
    with pytest.raises(NotSeen):
        attack.run(view, leaky.bench, leaky.truth, rng=np.random.default_rng(0))


@pytest.mark.parametrize("adversary", list(Adversary))
def test_every_adversary_is_refused_what_it_never_saw(leaky, adversary):
    view = leaky.view(adversary)
    refused = {
        Adversary.SERVER: [],
        Adversary.CLIENT: [lambda: view.uploads(1), view.student],
        Adversary.STUDENT_HOLDER: [
            view.rounds,
            view.proxy,
            lambda: view.uploads(1),
            lambda: view.consensus(1),
        ],
    }
    for ask in refused[adversary]:
        with pytest.raises(NotSeen):
            ask()
    assert view.adversary is adversary
