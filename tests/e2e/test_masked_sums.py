"""A whole run over masked sums learns what the same run over uploads learns, and shows less."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fedkd_clients.app import fleet_in_memory
from fedkd_clients.fleet import Fleet
from fedkd_clients.store import FileStore
from scipy.stats import chisquare, kstest

from fedkd.privacy.masked_sums import added, steps_per_unit
from fedkd.results import RoundResult, result_hash
from fedkd.transport.messages import Action, Reply, Request
from fedkd.types import Consensus, Knowledge

N_CLIENTS, N_MIN, SILENT = 6, 3, 4
BASE = (
    *(f"clients={N_CLIENTS}", "rounds=2", "method=random_filter"),
    *("method.filter.like.quantile=0.7", "method.filter.like.own_rule=false"),
)
FALSE_ALARM = 1e-9
"""Chance that truly uniform answers fail the tests of uniformity here, all of them together."""


class SilenceError(RuntimeError):
    """A client that answers no more."""


class Listening:
    """A fleet of which all requests and replies are kept, and one client falls silent."""

    def __init__(self, scenario, *, until: Action) -> None:
        self.fleet, self.until = fleet_in_memory(scenario), until
        self.heard: list[tuple[Request, Reply]] = []

    def handle(self, requests):
        (request,) = requests
        (reply,) = self.fleet.handle(requests)
        if (request.client, request.action) == (SILENT, self.until):
            raise SilenceError
        self.heard.append((request, reply))
        return [reply]

    def said(self, action: Action, *, round: int = 1, attempt: int | None = None) -> dict:
        """Return the replies of one exchange by client."""
        return {
            q.client: r
            for q, r in self.heard
            if (q.action, q.round) == (action, round)
            and (attempt is None or (q.roll is not None and q.roll.attempt == attempt))
        }

    def teacher(self) -> Consensus:
        """Return the consensus of round 1, as clients got it in round 2."""
        return next(q.incoming for q, _ in self.heard if (q.action, q.round) == (Action.ROUND, 2))


@dataclass(frozen=True)
class Twins:
    """One federation run twice from the same seeds, and what passed between its two sides."""

    sums: Listening
    uploads: Listening
    results: list[RoundResult]
    n_rows: int

    def knowledge(self) -> dict[int, Knowledge]:
        """Return the uploads of round 1 in the clear, by client."""
        return {c: reply.upload for c, reply in self.uploads.said(Action.ROUND).items()}


@pytest.fixture(scope="module")
def twins(play, tiny) -> Twins:
    """Client 4 falls silent between the phases; in the twin run it is silent from the start."""
    clear = tiny(*BASE)
    uploads = Listening(clear, until=Action.ROUND)
    play(clear, fleet_for=lambda _: uploads)
    masked = tiny(*BASE, "server_view=sums", f"n_min={N_MIN}")
    sums = Listening(masked, until=Action.SCORES)
    results = play(masked, fleet_for=lambda _: sums)
    (n_rows,) = {len(q.proxy) for q, _ in sums.heard if q.proxy is not None}
    return Twins(sums=sums, uploads=uploads, results=results, n_rows=n_rows)


def _keepers(twins: Twins) -> np.ndarray:
    counts = np.zeros(twins.n_rows, dtype=np.int64)
    for upload in twins.knowledge().values():
        counts[upload.rows.numpy()] += 1
    return counts


def test_the_case_is_the_hard_one(twins):
    kept = [len(upload) / twins.n_rows for upload in twins.knowledge().values()]
    assert 0.6 < np.mean(kept) < 0.8, "about 30 % of rows are filtered"
    counts = _keepers(twins)
    assert all((counts == n).any() for n in (1, 2, N_MIN)), "some rows have one keeper"
    assert SILENT in twins.sums.said(Action.ROUND), "it answered the first phase"
    failures = [(f.round, f.client, f.reason) for r in twins.results for f in r.failures]
    assert failures[0] == (1, SILENT, "SilenceError")


def test_the_consensus_is_the_plain_one_to_half_a_step(twins):
    masked, plain = twins.sums.teacher(), twins.uploads.teacher()
    enough = np.flatnonzero(_keepers(twins) >= N_MIN)
    assert masked.rows.tolist() == enough.tolist(), "rows with one or two keepers are refused"
    assert 0 < len(masked) < len(plain)
    same_rows = torch.isin(plain.rows, masked.rows)
    # The sums differ by half a step a keeper, so the means by half a step; float32 rounds both.
    bound = 0.5 / steps_per_unit(N_CLIENTS - 1) + 2.0**-24
    difference = (masked.scores.double() - plain.scores[same_rows].double()).abs()
    assert float(difference.max()) <= bound
    assert (masked.space, masked.temperature) == (plain.space, plain.temperature)


def test_all_answers_together_are_the_plain_sums_to_half_a_step_a_member(twins):
    survivors = sorted(set(range(N_CLIENTS)) - {SILENT})
    counted = twins.sums.said(Action.COUNTS, attempt=2)
    assert sorted(counted) == survivors
    assert added(r.masked.numpy() for r in counted.values()).tolist() == _keepers(twins).tolist()
    scored = twins.sums.said(Action.SCORES, attempt=2)
    assert sorted(scored) == survivors
    rows = twins.sums.teacher().rows
    exact = torch.zeros(twins.n_rows, 11, dtype=torch.float64)
    for upload in twins.knowledge().values():
        exact[upload.rows, :-1] += upload.scores.double() * upload.weights.double()[:, None]
        exact[upload.rows, -1] += upload.weights.double()
    step = 1 / steps_per_unit(len(survivors))
    words = added(r.masked.numpy() for r in scored.values())
    error = np.abs(words * step - exact[rows].numpy())
    assert error.max() <= len(survivors) * step / 2
    # A sum that lacks anybody is far off.
    for client in survivors:
        partial = added(r.masked.numpy() for c, r in scored.items() if c != client)
        assert np.abs(partial * step - exact[rows].numpy()).mean() > 1


def _p_values(words: np.ndarray) -> list[float]:
    """Return KS of all words, and chi-square over the bytes at both ends."""
    flat = words.ravel()
    ends = [np.bincount((flat >> shift) & 0xFF, minlength=256) for shift in (24, 0)]
    return [
        float(kstest(flat / 2.0**32, "uniform").pvalue),
        *(float(chisquare(counts).pvalue) for counts in ends),
    ]


def test_the_answers_of_one_client_alone_are_uniform(twins):
    found: list[float] = []
    for client in range(N_CLIENTS):
        said = [
            twins.sums.said(Action.ROUND)[client].masked,
            *(r.masked for c, r in twins.sums.said(Action.COUNTS).items() if c == client),
            *(
                r.masked
                for c, r in twins.sums.said(Action.SCORES, attempt=2).items()
                if c == client
            ),
        ]
        words = np.concatenate([values.numpy().ravel() for values in said])
        assert len(words) > 100
        found += _p_values(words)
    everything = [r.masked.numpy().ravel() for _, r in twins.sums.heard if r.masked is not None]
    found += _p_values(np.concatenate(everything))
    assert min(found) > FALSE_ALARM / len(found)


def test_the_test_of_uniformity_would_notice_what_is_behind_the_masks(twins):
    for upload in twins.knowledge().values():
        kept = np.zeros(twins.n_rows, dtype=np.uint32)
        kept[upload.rows.numpy()] = 1
        scores = (upload.scores.double().numpy() * steps_per_unit(5)).astype(np.uint32)
        assert min(_p_values(kept)) < FALSE_ALARM
        assert min(_p_values(scores)) < FALSE_ALARM


def test_the_server_is_sent_no_upload(twins):
    assert all(reply.upload is None for _, reply in twins.sums.heard)
    assert all(reply.upload is not None for reply in twins.uploads.said(Action.ROUND).values())


def test_masks_differ_between_runs_and_results_do_not(play, tiny):
    scenario = tiny("server_view=sums", "n_min=2")
    heard, hashes = [], []
    for _ in range(2):
        fleet = Listening(scenario, until=Action.HELLO)
        hashes.append(result_hash(play(scenario, fleet_for=lambda _, f=fleet: f)))
        heard.append(fleet.said(Action.ROUND))
    assert hashes[0] == hashes[1]
    first, second = (run[0].masked.tolist() for run in heard)
    assert first != second


def test_clients_in_files_answer_as_clients_in_memory_do(play, tiny, tmp_path):
    scenario = tiny("server_view=sums", "n_min=2")
    in_memory = play(scenario)

    def anew(_):
        # A new fleet for every message, as in processes that come and go.
        cpu = torch.device("cpu")
        return Fleet(scenario, FileStore(tmp_path), device=cpu, simulated=True)

    on_disk = play(scenario, fleet_for=anew)
    assert [r.failures for r in on_disk] == [[], [], []]
    assert result_hash(on_disk) == result_hash(in_memory)


def test_what_it_costs_in_bytes(simulated, tiny):
    outcome, scenario = simulated("server_view=sums", "n_min=2"), tiny()
    up = outcome.summary["bytes_by_kind"]["up"]
    plain = simulated().summary["bytes_by_kind"]["up"]
    assert {"knowledge", "masks"} & set(up) == set(), "no upload is sent"
    assert {"keys", "masked"} & set(plain) == set()
    table = outcome.metrics()
    n_rows = int(table[table.name == "proxy_rows"].value.iloc[0])
    shares = table[table.name == "coverage"].value
    answers = scenario.clients * scenario.rounds
    counts, scores = 4 * n_rows * answers, scenario.clients * n_rows * shares.sum() * 4 * 11
    framing = 2 * answers * 400
    assert counts + scores < up["masked"] < counts + scores + framing
    assert up["masked"] > plain["knowledge"] + plain["masks"], "rows not kept are zeros, not absent"
    assert up["keys"] < scenario.clients * 400
