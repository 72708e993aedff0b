"""An adversary is given what it saw in a real run, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from fedkd.audit.views import Adversary, NotSeen
from fedkd.privacy.masked_sums import added, steps_per_unit
from fedkd.transcript import Transcript
from fedkd.types import NOBODY, Space

READS = {
    "rounds": lambda view: view.rounds(),
    "proxy": lambda view: view.proxy(),
    "uploads": lambda view: view.uploads(2),
    "consensus": lambda view: view.consensus(2),
    "student": lambda view: view.student(),
}
SEES = {
    Adversary.SERVER: set(READS),
    Adversary.CLIENT: {"rounds", "proxy", "consensus"},
    Adversary.STUDENT_HOLDER: {"student"},
}
FALSE_ALARM = 1e-6


@pytest.fixture(scope="module")
def kept(simulated):
    """Return the transcript of a tiny run with further overrides."""
    return lambda *overrides: Transcript.read(simulated("transcript=last", *overrides).path)


@pytest.fixture(scope="module")
def plain(kept):
    return kept("server_model=mlp", "method.filter.quantile=0.8")


def _views(transcript):
    server = [(Adversary.SERVER, transcript.seen_by(Adversary.SERVER))]
    clients = [(Adversary.CLIENT, transcript.seen_by(Adversary.CLIENT, client=c)) for c in range(3)]
    holder = [(Adversary.STUDENT_HOLDER, transcript.seen_by(Adversary.STUDENT_HOLDER))]
    return server + clients + holder


def test_every_adversary_is_covered():
    assert set(SEES) == set(Adversary)


@pytest.mark.parametrize("what", READS)
def test_an_adversary_gets_what_it_saw_and_nothing_else(plain, what):
    for adversary, view in _views(plain):
        assert view.adversary is adversary
        if what in SEES[adversary]:
            assert READS[what](view) is not None
        else:
            with pytest.raises(NotSeen, match=f"{adversary.value}.*never sees"):
                READS[what](view)


def test_a_client_knows_its_own_rows_and_no_keepers(plain):
    server = plain.seen_by(Adversary.SERVER)
    assert server.consensus(2).keepers is not None
    assert sorted(set(server.proxy().owner.tolist())) == [0, 1, 2]
    for client in range(3):
        view = plain.seen_by(Adversary.CLIENT, client=client)
        seen, sent = view.proxy(), server.proxy().seen_by(client)
        assert torch.equal(seen.owner, sent.owner), "the copy that it was sent"
        assert set(seen.owner.tolist()) == {client, NOBODY}
        assert torch.equal(seen.inputs, sent.inputs)
        assert view.consensus(2).keepers is None
        assert torch.equal(view.consensus(2).scores, server.consensus(2).scores)


def test_nobody_owns_external_rows(kept):
    view = kept("proxy={name: external, size: 60}").seen_by(Adversary.CLIENT, client=1)
    assert view.proxy().owner is None


def test_the_server_sees_what_it_averaged(plain):
    view = plain.seen_by(Adversary.SERVER)
    total = torch.zeros(len(view.proxy()), 10, dtype=torch.float64)
    keepers = torch.zeros(len(view.proxy()), dtype=torch.int64)
    for upload in view.uploads(2).values():
        total[upload.rows] += upload.scores.double()
        keepers[upload.rows] += 1
    consensus = view.consensus(2)
    assert torch.equal(keepers[consensus.rows], consensus.keepers)
    assert not torch.equal(keepers, torch.full_like(keepers, 3)), "clients keep different rows"
    mean = total[consensus.rows] / keepers[consensus.rows, None]
    assert torch.allclose(mean.float(), consensus.scores, atol=1e-6)


def test_of_masked_sums_the_server_sees_noise_that_adds_up(kept):
    transcript = kept("server_view=sums", "n_min=2")
    uploads = transcript.seen_by(Adversary.SERVER).uploads(2)
    consensus = transcript.seen_by(Adversary.SERVER).consensus(2)
    masked = transcript.traffic(2).masked
    assert transcript.traffic(2).uploads == {}
    assert list(uploads) == list(masked.words) == [0, 1, 2]
    for client, upload in uploads.items():
        assert torch.equal(upload.rows, masked.rows), "which rows it kept is not told"
        assert upload.space is Space.PROBS
        assert torch.allclose(upload.scores.sum(dim=1), torch.ones(len(upload)), atol=1e-5)
        words = masked.words[client].numpy()
        shares = words[:, :-1] / 2.0**32
        assert kstest(shares.ravel(), "uniform").pvalue > FALSE_ALARM
        expected = shares / shares.sum(axis=1, keepdims=True)
        assert np.allclose(upload.scores.numpy(), expected, atol=1e-6)
    sums = added(words.numpy() for words in masked.words.values()) / steps_per_unit(3)
    means = torch.from_numpy(sums[:, :-1] / sums[:, -1:]).float()
    at = torch.searchsorted(masked.rows, consensus.rows)
    assert torch.allclose(means[at], consensus.scores, atol=1e-5)


@pytest.mark.parametrize("what", ["uploads", "student"])
def test_masked_sums_hide_as_much_from_the_others(kept, what):
    transcript = kept("server_view=sums", "n_min=2")
    for adversary, view in _views(transcript):
        if adversary is not Adversary.SERVER:
            with pytest.raises(NotSeen):
                READS[what](view)


def test_of_averaged_parameters_the_final_average_is_the_student(kept):
    transcript = kept("method=fedavg")
    server = transcript.seen_by(Adversary.SERVER)
    for what in ("proxy", "uploads", "consensus"):
        with pytest.raises(NotSeen, match=r"parameters|does not make one"):
            READS[what](server)
    student = transcript.seen_by(Adversary.STUDENT_HOLDER).student()
    averaged = transcript.traffic(2).broadcast
    assert list(student.arrays) == list(averaged.arrays)
    assert all(torch.equal(student.arrays[n], averaged.arrays[n]) for n in student.arrays)


def test_without_a_server_model_there_is_no_student(kept):
    with pytest.raises(NotSeen, match="server_model=cnn_small"):
        kept().seen_by(Adversary.STUDENT_HOLDER).student()


def test_a_transcript_changes_no_result(simulated):
    assert simulated("transcript=last").summary["result_hash"] == simulated().summary["result_hash"]
