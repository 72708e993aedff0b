"""The models of a scenario's clients: how their rows are laid out, and how they are run."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fedkd.data.federation import load
from fedkd.flat import FlatArrays
from fedkd.models.base import Initializer, models
from fedkd.rng import torch_stream
from fedkd.scenario import Scenario
from fedkd.training.executors.base import draws
from fedkd.training.executors.choice import EXECUTORS, Choice, choose
from fedkd.training.packing import Packing
from fedkd.training.quickening import quickened, show_all
from fedkd.types import Update
from fedkd_clients.state import ClientState, loaded_together


class Architectures:
    """Asked by client id; clients of one architecture share everything but their rows."""

    def __init__(self, scenario: Scenario, *, device: torch.device) -> None:
        arrays = load(scenario.data)
        self._scenario, self._device = scenario, device
        self._like = torch.empty(0, device=device)
        self._shape, self._n_classes = arrays.input_shape, arrays.n_classes
        self._names = scenario.client_models()
        self._initializers: dict[str, Initializer] = {}
        self._packings: dict[str, Packing] = {}
        self._choices: dict[str, Choice] = {}
        self._draws: dict[str, bool] = {}
        self._desks: dict[str, nn.Module] = {}

    def packing(self, client: int) -> Packing:
        """Return how the client's row is laid out."""
        name = self._names[client]
        if name not in self._packings:
            self._packings[name] = Packing(self.fresh(client), self._scenario.training)
        return self._packings[name]

    def packings(self, clients: Sequence[int]) -> list[Packing]:
        """Return the layouts of some clients' rows, each once."""
        return [self.packing(members[0]) for members in self.alike(clients)]

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
            choice = self.choice(members[0])
            most = max(choice.block, EXECUTORS[choice.executor].in_step)
            size = -(-len(members) // -(-len(members) // most))  # about as many each time
            blocks += [members[n : n + size] for n in range(0, len(members), size)]
        return blocks

    def fresh(self, client: int) -> nn.Module:
        """Return a module with the client's initial parameters."""
        return copy.deepcopy(self._initial(client)).to(self._device)

    def newcomer(self, client: int) -> ClientState:
        """Return what a client carries before its first round."""
        packing = self.packing(client)
        return ClientState(
            room=partial(torch.empty, packing.width, device=self._device),
            begin=lambda row: packing.write(row, self._initial(client)),
            size=packing.size,
        )

    def _initial(self, client: int) -> nn.Module:
        """Return a module with the client's initial parameters, until the next one is wanted."""
        name, seed = self._names[client], self._scenario.initialization_seed()
        if name not in self._initializers:
            model = models.get(name)()
            self._initializers[name] = Initializer(model, self._shape, self._n_classes)
        return self._initializers[name].module(torch_stream(seed, "initialisation", client=client))

    def desk(self, client: int, row: Tensor) -> nn.Module:
        """Return the one module of the client's architecture, with the parameters of ``row``."""
        name, packing = self._names[client], self.packing(client)
        if name not in self._desks:
            self._desks[name] = quickened(packing.module(row), trained=False)
        packing.attach(self._desks[name], row)
        return show_all(self._desks[name], packing.values(row))

    def load(self, states: Sequence[ClientState], update: Update, *, client: int) -> None:
        """Give clients of one architecture, that of ``client``, drafts with other parameters."""
        packing, sent = self.packing(client), update.arrays
        if isinstance(sent, FlatArrays) and sent.layout == packing.layout:
            rows = packing.room(len(states), like=self._like)
            packing.values(rows)[:] = sent.vector.to(self._device)
            nothing = rows.new_zeros(packing.width - packing.size)
            carried = [state.carried() for state in states]
            rows[:, packing.size :] = torch.stack(
                [nothing if rest is None else rest for rest in carried]
            )
            views = zip(rows.unbind(), packing.values(rows).unbind(), strict=True)
            for place, (state, pair) in enumerate(zip(states, views, strict=True)):
                state.load(rows, place, update, pair)
            return
        for state in states:
            state.draft(state.row.clone())
            module = self.desk(client, state.row)
            module.load_state_dict(sent)
            packing.keep_buffers(state.row, module)

    @contextmanager
    def drafts(self, states: Sequence[ClientState], *, client: int) -> Generator[Tensor]:
        """Lend rows to be trained, ``[clients, width]``, of clients of one architecture.

        They are the clients' drafts afterwards. Where training raises, all are as they were.
        """
        rows = loaded_together(states)
        if rows is None:
            rows = self.packing(client).room(len(states), like=self._like)
            for row, state in zip(rows.unbind(), states, strict=True):
                state.copy_to(row)
            yield rows
            for state, row in zip(states, rows.unbind(), strict=True):
                state.draft(row)
            return
        try:
            yield rows
        except Exception:
            self._reload(states, client=client)
            raise
        for state in states:
            state.loaded = None

    def _reload(self, states: Sequence[ClientState], *, client: int) -> None:
        """Load once more what was loaded into drafts that are spoilt."""
        for state in states:
            update = state.unload()
            if update is not None:
                self.load([state], update, client=client)

    def parameters(
        self, states: Sequence[ClientState], *, client: int
    ) -> list[Mapping[str, Tensor]]:
        """Return the parameters of clients of one architecture, that of ``client``.

        They are float32 (counts among a module's buffers, too), named as torch names them, and
        flat where the packing has a layout. What is in a draft is no copy: nobody writes to the
        draft any more.
        """
        layout = self.packing(client).layout
        if layout is None:
            named = (self.desk(client, state.row).state_dict() for state in states)
            return [
                {name: value.to(torch.float32, copy=True) for name, value in one.items()}
                for one in named
            ]
        found: list[Mapping[str, Tensor]] = []
        for state in states:
            values = state.values if state.drafted else state.values.clone()
            state.loaded = None
            found.append(FlatArrays(values, layout))
        return found
