"""Rows of clients in shared memory: the same for every process, and no burden once at rest."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import torch
from fedkd_clients import bank, snapshots
from fedkd_clients.bank import Bank
from fedkd_clients.learner import FleetLearner
from fedkd_clients.state import ClientState
from fedkd_clients.store import MemoryStore

CPU = torch.device("cpu")
WIDTH = 300_000


@pytest.fixture(params=["held", "paged"])
def made(request, monkeypatch):
    """Return a bank of two rows, in memory alone or in a file whose pages can be let go of."""
    if request.param == "paged":
        monkeypatch.setattr(bank, "PAGED_FROM", 0)
    return Bank([WIDTH, WIDTH])


def _state(made: Bank, client: int) -> ClientState:
    """Return a client that begins with zeros, or goes on from what was put."""
    state = ClientState(room=lambda: torch.empty(WIDTH), begin=torch.Tensor.zero_, size=WIDTH - 1)
    if made.holds(client):
        made.get(client, state)
    return state


def _mapped_mib() -> float:
    """Return how much of files without a name this process has in its memory."""
    found, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = line.endswith("(deleted)") and "/dev/zero" not in line
        elif counts and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found / 1024


def test_a_new_row_is_the_banks_once_it_was_put(made):
    state = _state(made, 1)
    first = state.row.fill_(2.5)
    state.draft(torch.full((WIDTH,), 3.5))
    assert not made.holds(1)
    made.put(1, state)
    assert made.holds(1)
    assert not made.holds(0)
    assert bool((state.row == 3.5).all())
    assert bool((first == 2.5).all()), "it was elsewhere before"
    again = _state(made, 1)
    again.draft(torch.full((WIDTH,), 4.5))
    made.put(1, again)
    assert bool((state.row == 4.5).all())


def test_what_a_forked_process_puts_is_there_for_all(made):
    child = os.fork()
    if child == 0:
        state = _state(made, 0)
        state.row.fill_(3.5)
        made.put(0, state)
        os._exit(0)
    os.waitpid(child, 0)
    assert made.holds(0)
    assert bool((_state(made, 0).row == 3.5).all())
    assert not made.holds(1)


def test_rows_at_rest_take_no_memory_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(bank, "PAGED_FROM", 0)
    made = Bank([WIDTH, WIDTH])
    before = _mapped_mib()
    state = _state(made, 0)
    state.row.copy_(torch.arange(WIDTH))
    made.put(0, state)
    assert _mapped_mib() < before + 0.5
    assert torch.equal(state.row, torch.arange(WIDTH).float())
    assert _mapped_mib() > before + 1, "reading brings it back"
    state.rest()
    assert _mapped_mib() < before + 0.5


def test_a_first_row_is_whole_or_refused(monkeypatch):
    monkeypatch.setattr(bank, "PAGED_FROM", 0)
    made, write, room = Bank([WIDTH, WIDTH]), os.pwrite, [4096]

    def some(file: int, data: memoryview, at: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        n = write(file, data[: room[0]], at)
        room[0] -= n if limited else 0
        return n

    monkeypatch.setattr(bank.os, "pwrite", some)
    limited = False
    state = _state(made, 0)
    state.row.copy_(torch.arange(WIDTH))
    made.put(0, state)
    assert torch.equal(_state(made, 0).row, torch.arange(WIDTH).float())
    limited = True
    with pytest.raises(OSError, match="No space left"):
        made.put(1, _state(made, 1))
    assert not made.holds(1)


def test_a_checkpoint_leaves_no_client_in_memory(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "PAGED_FROM", 0)
    learner = FleetLearner(tiny("models=mlp"), MemoryStore(), device=CPU)
    before = _mapped_mib()
    learner.share_rows()
    for client in (0, 1):
        learner.state(client)
        learner.keep(client)
    snapshots.save(learner, tmp_path / "clients-00.safetensors", [0, 1])
    assert (tmp_path / "clients-00.safetensors").stat().st_size > 2**17
    assert _mapped_mib() < before + 0.05


def test_rows_of_many_clients_lie_in_files_of_their_own_parts(monkeypatch):
    monkeypatch.setattr(bank, "PAGED_FROM", 0)
    widths = [5000 + n for n in range(2 * bank.FILES + 3)]
    made = Bank(widths)
    for client, width in enumerate(widths):
        state = _state(made, client)
        state.draft(torch.full((width,), float(client)))
        made.put(client, state)
    for client, width in enumerate(widths):
        row = _state(made, client).row
        assert len(row) == width
        assert bool((row == client).all())
