"""The random streams of clients in the round under way."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedkd.rng import noise_stream, torch_stream, torch_streams
from fedkd.scenario import Scenario


class ClientStreams:
    """One stream for each purpose, client and round.

    Attributes:
        round: the one under way.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.round = 0

    def training(self, purpose: str, client: int) -> torch.Generator:
        """Return a stream that anybody with the scenario can repeat."""
        seed = self._scenario.training_seed()
        return torch_stream(seed, purpose, round=self.round, client=client)

    def of_all(self, purpose: str, clients: Sequence[int]) -> list[torch.Generator]:
        """Return :meth:`training` of each client."""
        seed = self._scenario.training_seed()
        return torch_streams(seed, purpose, round=self.round, clients=clients)

    def secret(self, purpose: str, client: int) -> torch.Generator:
        """Return a stream of privacy noise."""
        seed = self._scenario.noise_seed()
        return noise_stream(seed, purpose, round=self.round, client=client)
