"""The ledger: what is written counts, what is damaged stops everything, units are kept apart."""

from __future__ import annotations

import math

import pytest

from fedkd.errors import ConfigError
from fedkd.privacy.events import (
    Gaussian,
    Laplace,
    Nothing,
    SampledGaussian,
    Uncounted,
    Unit,
    from_plain,
    to_plain,
)
from fedkd.privacy.ledger import Channel, Charge, Ledger, Release

RECORD, CLIENT = (Unit.RECORD, Channel.UPLOAD), (Unit.CLIENT, Channel.UPLOAD)


def _release(event=None, *, kept=RECORD) -> Release:
    unit, channel = kept
    return Release(what="test", unit=unit, channel=channel, event=event or Gaussian(4.0))


def _charge(client: int = 0, round: int = 1, **kind) -> Charge:
    return Charge(round=round, client=client, release=_release(**kind))


EVENTS = [Nothing(), Uncounted("why"), Gaussian(2.0, 3), Laplace(0.5), SampledGaussian(0.1, 1.0, 9)]


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_survives_the_file(tmp_path, event):
    path = tmp_path / "deep" / "ledger.jsonl"
    Ledger(path=path).add([_charge(event=event)])
    assert Ledger(path=path).charges == [_charge(event=event)]
    assert from_plain(to_plain(event)) == event


def test_spending_goes_on_where_an_earlier_process_stopped(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path=path).add([_charge(round=n) for n in (1, 2)])
    again = Ledger(path=path)
    again.add([_charge(round=3)])
    memory = Ledger()
    memory.add([_charge(round=n) for n in (1, 2, 3)])
    assert again.epsilon(0, *RECORD, delta=1e-5) == memory.epsilon(0, *RECORD, delta=1e-5) > 0


@pytest.mark.parametrize("damage", ['{"schema": 1, "rou', "[]", '{"schema": 99}', "\x00"])
def test_a_damaged_line_stops_everything(tmp_path, damage):
    path = tmp_path / "ledger.jsonl"
    Ledger(path=path).add([_charge()])
    with path.open("a") as file:
        file.write(damage + "\n")
    with pytest.raises(ConfigError, match="line 2"):
        Ledger(path=path)


def test_a_line_cut_off_by_a_crash_never_counted_and_does_not_stop_the_next(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path=path).add([_charge()])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:37])
    again = Ledger(path=path)
    again.add([_charge(round=2)])
    assert [charge.round for charge in Ledger(path=path).charges] == [1, 2]


def test_who_only_reads_leaves_a_line_that_is_being_written_alone(tmp_path):
    """As when a run is explained that still goes on: the writer will finish its line."""
    path = tmp_path / "ledger.jsonl"
    Ledger(path=path).add([_charge(), _charge(round=2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [charge.round for charge in Ledger(path=path).charges] == [1]
    with path.open("ab") as file:
        file.write(whole[-20:])
    assert [charge.round for charge in Ledger(path=path).charges] == [1, 2]


def test_units_channels_and_clients_are_never_added_up():
    ledger = Ledger()
    ledger.add([_charge(), _charge(1), _charge(event=Uncounted(), kept=CLIENT)])
    alone = Ledger()
    alone.add([_charge()])
    assert ledger.epsilon(0, *RECORD, delta=1e-5) == alone.epsilon(0, *RECORD, delta=1e-5)
    assert ledger.epsilon(0, *CLIENT, delta=1e-5) == math.inf
    assert ledger.epsilon(1, *CLIENT, delta=1e-5) == 0
    assert ledger.clients() == [0, 1]


def test_planned_releases_count_but_are_not_written():
    ledger = Ledger()
    ledger.add([_charge()])
    before = ledger.epsilon(0, *RECORD, delta=1e-5)
    more = [_release(), _release(Uncounted(), kept=CLIENT)]
    assert before < ledger.epsilon(0, *RECORD, delta=1e-5, planned=more) < math.inf
    assert len(ledger.charges) == 1


def test_a_clients_charges_are_found_wherever_they_came_from(tmp_path):
    made = [
        _charge(client=client, round=n, kept=kept)
        for n in (1, 2, 3)
        for client in (7, 0, 3)
        for kept in (RECORD, CLIENT)
    ]
    path = tmp_path / "ledger.jsonl"
    for ledger in (Ledger(path=path), Ledger(), Ledger(charges=made[:7])):
        ledger.add(made[len(ledger.charges) : 10])
        ledger.add(made[10:])
        for read in (ledger, Ledger(path=path)):
            assert read.charges == made
            assert read.clients() == [0, 3, 7]
            assert read.all_of(5) == read.of(5, *RECORD) == []
            for client in (0, 3, 7):
                mine = [charge for charge in made if charge.client == client]
                assert read.all_of(client) == mine
                assert read.of(client, *CLIENT) == mine[1::2]
