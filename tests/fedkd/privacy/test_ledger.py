"""The ledger: what is written counts, what is damaged stops everything, units are kept apart."""

from __future__ import annotations

import json
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


def _charge(*clients: int, round: int = 1, run: str = "", **kind) -> Charge:
    return Charge(round=round, clients=clients or (0,), release=_release(**kind), run=run)


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
        _charge(*clients, round=n, kept=kept)
        for n in (1, 2, 3)
        for clients in ((7,), (0, 3), (3,))
        for kept in (RECORD, CLIENT)
    ]
    path = tmp_path / "ledger.jsonl"
    for ledger in (Ledger(path=path), Ledger(), Ledger(charges=made[:7])):
        ledger.add(made[len(ledger.charges) : 10])
        assert ledger.clients() == [0, 3, 7]
        ledger.add(made[10:])
        for read in (ledger, Ledger(path=path)):
            assert read.charges == made
            assert read.clients() == [0, 3, 7]
            assert read.all_of(5) == read.of(5, *RECORD) == []
            for client in (0, 3, 7):
                mine = [charge for charge in made if client in charge.clients]
                assert read.all_of(client) == mine
                assert read.of(client, *CLIENT) == mine[1::2]


MANY = [(0, 1), (4, 7, 9), (0, *range(5, 800), 900, *range(1000, 1003)), (12,)]


@pytest.mark.parametrize("clients", MANY)
def test_a_release_by_several_clients_is_one_line_and_counts_for_each_of_them(tmp_path, clients):
    path, apart = tmp_path / "ledger.jsonl", Ledger()
    Ledger(path=path).add([_charge(*clients, round=n) for n in (1, 2)])
    apart.add(_charge(client, round=n) for n in (1, 2) for client in clients)
    assert len(path.read_text().splitlines()) == 2
    again = Ledger(path=path)
    assert [charge.clients for charge in again.charges] == [clients] * 2
    assert again.clients() == list(clients)
    spent = again.epsilons(clients, *RECORD, delta=1e-5)
    assert spent == apart.epsilons(clients, *RECORD, delta=1e-5)
    assert set(spent) == {again.epsilon(clients[0], *RECORD, delta=1e-5)}


def test_a_line_names_its_client_or_ranges_of_clients_and_old_lines_are_read(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path=path).add([_charge(3), _charge(0, 1, 2, 5, 8, 9)])
    one, many = (json.loads(line) for line in path.read_text().splitlines())
    assert (one.pop("client"), many.pop("clients")) == (3, [[0, 2], [5, 5], [8, 9]])
    event = {"kind": "gaussian", "noise_multiplier": 4.0, "count": 1}
    words = {"schema": 1, "round": 1, "what": "test", "unit": "record", "channel": "upload"}
    assert one == many == {**words, "event": event}


DAMAGED = {
    "a range without end": [[0]],
    "a range that is none": [[0, 3, 5]],
    "a range backwards": [[3, 0]],
    "ranges out of order": [[5, 6], [0, 1]],
    "ranges that overlap": [[0, 4], [4, 6]],
    "a client below none": [[-2, 1]],
    "half a client": [[0, 1.5]],
    "a client in words": [["0", "1"]],
    "a client that is a truth": [[False, True]],
    "nobody": [],
    "no list": 7,
    "no ranges": [0, 1],
    "more than there are": [[0, 10**15]],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_ranges_stop_everything(tmp_path, name):
    path = tmp_path / "ledger.jsonl"
    Ledger(path=path).add([_charge(0, 1), _charge(0, 1, round=2)])
    first, second = path.read_text().splitlines()
    damaged = {**json.loads(second), "clients": DAMAGED[name]}
    path.write_text(f"{first}\n{json.dumps(damaged)}\n")
    with pytest.raises(ConfigError, match=r"line 2 of the privacy ledger is damaged"):
        Ledger(path=path)


@pytest.mark.parametrize("whose", [{"client": 0, "clients": [[0, 1]]}, {}, {"client": "0"}])
def test_a_line_that_does_not_say_whose_it_is_stops_everything(tmp_path, whose):
    path = tmp_path / "ledger.jsonl"
    Ledger(path=path).add([_charge()])
    tree = json.loads(path.read_text())
    del tree["client"]
    path.write_text(json.dumps(tree | whose) + "\n")
    with pytest.raises(ConfigError, match=r"line 1 of the privacy ledger is damaged"):
        Ledger(path=path)


@pytest.mark.parametrize("clients", [(), (1, 0), (2, 2), (-1, 0)])
def test_a_charge_needs_clients_in_order(clients):
    with pytest.raises(ValueError, match="ascending ids"):
        Charge(round=1, clients=clients, release=_release())


def test_what_a_round_costs_again_is_asked_by_round_run_and_client():
    record, client, more = _release(), _release(kept=CLIENT), _release(Gaussian(2.0))
    planned, whole = [record, client], (record, client)
    ledger = Ledger()
    assert ledger.unpaid([0, 1], planned, round=1, run="a") == {whole: [0, 1]}
    assert ledger.unpaid([], planned, round=1, run="a") == {}
    ledger.add([_charge(0, 1, run="a"), _charge(1, run="a", kept=CLIENT)])
    ledger.add([_charge(2, run="a", event=Gaussian(2.0)), _charge(5, run="b")])
    for asked in ([0, 1, 2, 5], [5, 2, 1, 0]):
        paid = ledger.unpaid(asked, planned, round=1, run="a")
        assert {due: sorted(who) for due, who in paid.items()} == {
            whole: [2, 5],
            (client,): [0],
            (): [1],
        }
    assert ledger.unpaid([2], [*planned, more], round=1, run="a") == {whole: [2]}
    assert ledger.unpaid([0, 1], planned, round=2, run="a") == {whole: [0, 1]}
    assert ledger.unpaid([0, 5], planned, round=1, run="b") == {whole: [0], (client,): [5]}
    assert ledger.unpaid([0], [record, record], round=1, run="a") == {(record,): [0]}
    ledger.add([_charge(0, 5, run="a", kept=CLIENT)])
    paid = ledger.unpaid([0, 5], planned, round=1, run="a")
    assert paid == {(): [0], (record,): [5]}, "what is added while a round goes on counts"


def test_a_write_that_failed_halfway_costs_no_later_line(tmp_path):
    """As on a full disk: the next line must not be joined to half a line."""
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path=path)
    ledger.add([_charge()])
    with path.open("ab") as file:
        file.write(path.read_bytes()[:37])
    ledger.add([_charge(round=2)])
    assert [charge.round for charge in Ledger(path=path).charges] == [1, 2]
