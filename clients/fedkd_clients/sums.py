"""A fleet's part in masked sums: each client's upload stays, and only masked words leave."""

from __future__ import annotations

from torch import Tensor

from fedkd.privacy.settings import ServerView
from fedkd.scenario import Scenario
from fedkd.transport.messages import Request
from fedkd.types import Knowledge, Upload
from fedkd_clients.learner import FleetLearner
from fedkd_clients.masking import Masking, MaskingError


class MaskedAnswers:
    """Answers for any client of a fleet, from what the client's ``masking`` remembers.

    Attributes:
        wanted: whether the scenario's uploads leave through masked sums only.
    """

    def __init__(self, scenario: Scenario, learner: FleetLearner) -> None:
        self._scenario, self._learner = scenario, learner
        self.wanted = scenario.server_view is ServerView.SUMS

    def key(self, client: int) -> Tensor:
        """Return the client's public key, uint8 ``[32]``."""
        return self._masking(client).public_key()

    def begin(self, request: Request) -> None:
        """Use up the round and attempt that ``request`` names; MaskingError unless they are new."""
        masking, client = self._masking(request.client), request.client
        if request.keys is not None:
            masking.learn(request.keys, client=client)
        n_min = self._scenario.n_min
        masking.begin(request.roll, client=client, round=request.round, n_min=n_min)

    def hold(self, request: Request, upload: Upload | None) -> None:
        """Keep the round's upload back."""
        if not isinstance(upload, Knowledge):
            raise MaskingError("masked sums are over knowledge, and this method makes none")
        n_rows, n_classes = self._n_rows(request), self._learner.task.n_classes
        self._masking(request.client).hold(upload, n_rows=n_rows, n_classes=n_classes)

    def counts(self, request: Request) -> Tensor:
        """Return which rows the held upload is about, masked: uint32 ``[proxy]``."""
        return self._masking(request.client).counts(n_rows=self._n_rows(request))

    def scores(self, request: Request) -> Tensor:
        """Return the announced rows' weighted scores and weights, masked."""
        return self._masking(request.client).scores(
            request.roll, round=request.round, n_rows=self._n_rows(request)
        )

    def _masking(self, client: int) -> Masking:
        if not self.wanted:
            raise MaskingError("this scenario has no masked sums; set server_view=sums")
        return self._learner.state(client).masking

    def _n_rows(self, request: Request) -> int:
        proxy = self._learner.state(request.client).proxy
        if proxy is None:
            raise MaskingError("sums over a proxy set that was never sent")
        return proxy.n_rows
