"""The models of a scenario's clients: how their rows are laid out, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedkd.data.federation import load
from fedkd.flat import FlatArrays
from fedkd.models.base import initialized, models
from fedkd.rng import torch_stream
from fedkd.scenario import Scenario
from fedkd.training.executors.base import draws
from fedkd.training.executors.choice import Choice, choose
from fedkd.training.packing import Packing
from fedkd.types import Update
from fedkd_clients.store import ClientState


class Architectures:
    """Asked by client id; clients of one architecture share everything but their rows."""

    def __init__(self, scenario: Scenario, *, device: torch.device) -> None:
        arrays = load(scenario.data)
        self._scenario, self._device = scenario, device
        self._shape, self._n_classes = arrays.input_shape, arrays.n_classes
        self._names = scenario.client_models()
        self._packings: dict[str, Packing] = {}
        self._choices: dict[str, Choice] = {}
        self._draws: dict[str, bool] = {}
        self._desks: dict[str, nn.Module] = {}

    def name(self, client: int) -> str:
        """Return the client's architecture."""
        return self._names[client]

    def packing(self, client: int) -> Packing:
        """Return how the client's row is laid out."""
        name = self._names[client]
        if name not in self._packings:
            self._packings[name] = Packing(self.fresh(client), self._scenario.training)
        return self._packings[name]

    def choice(self, client: int) -> Choice:
        """Return how clients of this one's architecture are run."""
        name = self._names[client]
        if name not in self._choices:
            self._choices[name] = self._choose(name, self.packing(client).template)
        return self._choices[name]

    def draws(self, client: int) -> bool:
        """Return whether the client's model draws random numbers as it trains."""
        name = self._names[client]
        if name not in self._draws:
            self._draws[name] = draws(self.packing(client).template)
        return self._draws[name]

    def _choose(self, name: str, module: nn.Module) -> Choice:
        runtime = self._scenario.runtime
        runtime.check_timed([name])
        for chosen in runtime.choices:
            if chosen.model == name:
                return chosen.checked(module)
        return choose(module, device=self._device, pinned=runtime.executor)

    def alike(self, clients: Sequence[int]) -> list[list[int]]:
        """Return the clients by architecture."""
        groups: dict[str, list[int]] = {}
        for client in clients:
            groups.setdefault(self._names[client], []).append(client)
        return list(groups.values())

    def blocks(self, clients: Sequence[int]) -> list[list[int]]:
        """Return the clients in blocks to be trained together, each of one architecture."""
        blocks: list[list[int]] = []
        for members in self.alike(clients):
            size = self.choice(members[0]).block
            blocks += [members[n : n + size] for n in range(0, len(members), size)]
        return blocks

    def fresh(self, client: int) -> nn.Module:
        """Return a module with the client's initial parameters."""
        seed = self._scenario.initialization_seed()
        module = initialized(
            models.get(self._names[client])(),
            self._shape,
            self._n_classes,
            rng=torch_stream(seed, "initialisation", client=client),
        )
        return module.to(self._device)

    def desk(self, client: int, row: Tensor) -> nn.Module:
        """Return the one module of the client's architecture, with the parameters of ``row``."""
        name, packing = self._names[client], self.packing(client)
        if name not in self._desks:
            self._desks[name] = packing.module(row)
        packing.attach(self._desks[name], row)
        return self._desks[name]

    def load(self, client: int, states: Sequence[ClientState], update: Update) -> None:
        """Overwrite the parameters of clients of this one's architecture, and nothing else."""
        packing, sent = self.packing(client), update.arrays
        if isinstance(sent, FlatArrays) and sent.layout == packing.layout:
            vector = sent.vector.to(self._device)
            for state in states:
                state.values.copy_(vector)
            return
        for state in states:
            module = self.desk(client, state.row)
            module.load_state_dict(sent)
            packing.keep_buffers(state.row, module)

    def copies(self, client: int, states: Sequence[ClientState]) -> list[Mapping[str, Tensor]]:
        """Return copies of the parameters of clients of this one's architecture.

        They are named as torch names them, and flat where the packing has a layout.
        """
        packing = self.packing(client)
        if packing.layout is None:
            named = (self.desk(client, state.row).state_dict() for state in states)
            return [{name: value.clone() for name, value in one.items()} for one in named]
        vectors = torch.stack([state.values for state in states])
        return [FlatArrays(vector, packing.layout) for vector in vectors.unbind()]
