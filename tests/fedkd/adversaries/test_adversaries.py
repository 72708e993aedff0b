"""Known answers: what each adversary says, given a consensus and an upload of a few rows."""

from __future__ import annotations

import pytest
import torch

from fedkd.adversaries.alie import Alie
from fedkd.adversaries.base import AdversaryClient, Surroundings, poisoned, poisoned_labels, stream
from fedkd.adversaries.free_rider import FreeRider, Sends
from fedkd.adversaries.label_flip import LabelFlip
from fedkd.adversaries.loss_maximisation import LossMaximisation
from fedkd.adversaries.rank_reversal import RankReversal
from fedkd.adversaries.replay import Replay
from fedkd.adversaries.scaled_logits import ScaledLogits
from fedkd.adversaries.second_class import SecondClass
from fedkd.adversaries.sybil import Sybil
from fedkd.errors import ConfigError
from fedkd.types import LOGIT_LIMIT, Consensus, Knowledge, Space


def _knowledge(rows, scores, *, space=Space.PROBS) -> Knowledge:
    return Knowledge(
        rows=torch.tensor(rows),
        scores=torch.tensor(scores),
        weights=torch.full((len(rows),), 0.5),
        space=space,
        temperature=2.0,
    )


UPLOAD = _knowledge([1, 2, 4], [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])
CONSENSUS = Consensus(
    rows=torch.tensor([0, 1, 4]),
    scores=torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]]),
    space=Space.PROBS,
    temperature=2.0,
    keepers=None,
)


def _sent(attack: AdversaryClient, *, upload=UPLOAD, consensus=CONSENSUS, **others) -> Knowledge:
    around = Surroundings(rows=torch.arange(6), n_classes=3, consensus=consensus, **others)
    return poisoned(attack, upload, around, rng=torch.Generator().manual_seed(0))


def _close(sent: Knowledge, rows, expected):
    assert sent.rows.tolist() == rows
    torch.testing.assert_close(sent.scores, torch.tensor(expected))
    assert (sent.space, sent.temperature) == (Space.PROBS, 2.0)


def test_loss_maximisation_is_sure_of_what_the_consensus_finds_least_likely():
    sent = _sent(LossMaximisation())
    _close(sent, [1, 2, 4], [[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])  # row 2: its own opinion
    assert sent.weights.tolist() == [1, 1, 1]
    first = _sent(LossMaximisation(), consensus=None)
    _close(first, [1, 2, 4], [[0, 0, 1.0], [1.0, 0, 0], [1.0, 0, 0]])


def test_second_class_is_sure_of_the_runner_up():
    _close(_sent(SecondClass()), [1, 2, 4], [[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]])


def test_rank_reversal_keeps_a_rows_values_and_turns_their_order():
    expected = [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.5, 0.2, 0.3]]
    _close(_sent(RankReversal()), [1, 2, 4], expected)


def test_alie_moves_the_consensus_by_the_distance_to_its_own_opinion():
    # Row 1: mean (.1 .6 .3), own (.5 .3 .2), spread (.4 .3 .1); + 1.5 spread = (.7 1.05 .45).
    # Projection takes 0.4 from each class: (.3 .65 .05). Row 2 has no consensus.
    sent = _sent(Alie())
    assert sent.rows.tolist() == [1, 2, 4]
    torch.testing.assert_close(sent.scores[0], torch.tensor([0.3, 0.65, 0.05]))
    torch.testing.assert_close(sent.scores[1], UPLOAD.scores[1])
    still = _sent(Alie(deviations=0.0))
    torch.testing.assert_close(still.scores[0], CONSENSUS.scores[1])


def test_scaled_probabilities_become_sure_of_the_class_it_finds_least_likely():
    _close(_sent(ScaledLogits()), [1, 2, 4], [[0, 0, 1.0], [1.0, 0, 0], [1.0, 0, 0]])
    torch.testing.assert_close(_sent(ScaledLogits(factor=1.0)).scores, UPLOAD.scores)


def test_scaled_logits_stop_at_the_largest_that_crosses():
    upload = _knowledge([0, 3], [[1.0, -2.0, 0.0], [30.0, -4.0, 0.5]], space=Space.LOGITS)
    sent = _sent(ScaledLogits(), upload=upload, consensus=None)
    assert sent.space is Space.LOGITS
    expected = [[-1000, 2000, 0], [-LOGIT_LIMIT, 4000, -500]]
    assert sent.scores.tolist() == expected


def test_a_free_rider_echoes_the_consensus_and_makes_up_the_rest():
    sent = _sent(FreeRider())
    assert torch.equal(sent.scores[[0, 2]], CONSENSUS.scores[1:])
    assert not torch.allclose(sent.scores[1], UPLOAD.scores[1])
    noise = _sent(FreeRider(sends=Sends.NOISE))
    assert torch.equal(noise.scores[1], sent.scores[1])
    assert not torch.allclose(noise.scores[0], sent.scores[0])
    many = _knowledge(list(range(3000)), [[1 / 3] * 3] * 3000)
    made_up = _sent(FreeRider(sends=Sends.NOISE), upload=many).scores
    # Even over the simplex of three classes: mean 1/3, variance 1/18 each.
    torch.testing.assert_close(made_up.mean(dim=0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    torch.testing.assert_close(made_up.var(dim=0), torch.full((3,), 1 / 18), atol=0.005, rtol=0)


def test_replay_sends_what_it_first_sent():
    old = _knowledge([0, 5], [[0.2, 0.2, 0.6], [0.9, 0.05, 0.05]])
    sent = _sent(Replay(), earlier=old)
    _close(sent, [0, 5], old.scores.tolist())
    assert torch.equal(sent.weights, old.weights)
    assert _sent(Replay()) is UPLOAD


def test_all_sybils_send_the_same_about_every_row():
    other = _knowledge([0, 3], [[0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
    around = Surroundings(rows=torch.arange(6), n_classes=3, consensus=CONSENSUS)
    sent = [
        poisoned(Sybil(), upload, around, rng=stream(Sybil(), 7, "upload", round=n, client=client))
        for upload, n, client in ((UPLOAD, 2, 8), (other, 2, 9), (UPLOAD, 3, 8))
    ]
    for one in sent[1:]:
        assert torch.equal(one.rows, sent[0].rows)
        assert torch.equal(one.scores, sent[0].scores)
    assert sent[0].rows.tolist() == list(range(6))
    told = sent[0].scores[CONSENSUS.rows]
    assert any(torch.equal(told, CONSENSUS.scores.roll(step, dims=1)) for step in (1, 2))
    others = sent[0].scores[[2, 3, 5]]
    assert others.sort(dim=1).values.tolist() == [[0, 0, 1]] * 3


def test_label_flip_turns_labels_and_leaves_the_upload():
    labels = torch.tensor([0, 1, 2, 3, 4])
    rng = torch.Generator().manual_seed(0)
    assert poisoned_labels(LabelFlip(), labels, n_classes=5, rng=rng).tolist() == [4, 3, 2, 1, 0]
    assert _sent(LabelFlip()) is UPLOAD


def test_label_flip_flips_the_share_it_says():
    labels = torch.zeros(20_000, dtype=torch.int64)
    rng = torch.Generator().manual_seed(0)
    flipped = poisoned_labels(LabelFlip(strength=0.3), labels, n_classes=10, rng=rng)
    assert set(flipped.tolist()) == {0, 9}
    assert float((flipped == 9).double().mean()) == pytest.approx(0.3, abs=0.013)  # 4 sigma


def test_labels_of_sequences_flip_too():
    labels = torch.tensor([[0, 1], [2, 0]])
    rng = torch.Generator().manual_seed(0)
    assert poisoned_labels(LabelFlip(), labels, n_classes=3, rng=rng).tolist() == [[2, 1], [0, 2]]


def test_part_of_the_rows_is_poisoned_and_the_rest_is_honest():
    n = 4000
    upload = _knowledge(list(range(n)), [[0.5, 0.3, 0.2]] * n)
    around = Surroundings(rows=torch.arange(n), n_classes=3)
    rng = torch.Generator().manual_seed(0)
    sent = poisoned(LossMaximisation(strength=0.25), upload, around, rng=rng)
    assert sent.rows.tolist() == list(range(n))
    lies = sent.scores[:, 2] == 1
    assert torch.equal(sent.scores[~lies], upload.scores[~lies])
    assert set(sent.weights[~lies].tolist()) == {0.5}
    assert float(lies.double().mean()) == pytest.approx(0.25, abs=0.028)  # 4 sigma


def test_a_consensus_of_logits_is_read_as_probabilities():
    consensus = Consensus(
        rows=torch.tensor([1, 2, 4]),
        scores=torch.tensor([[0.0, 5.0, -5.0], [3.0, 0.0, 1.0], [0.0, 1.0, 2.0]]),
        space=Space.LOGITS,
        temperature=1.0,
        keepers=None,
    )
    upload = _knowledge([1, 2, 4], [[1.0, 2.0, 3.0]] * 3, space=Space.LOGITS)
    sent = _sent(LossMaximisation(), upload=upload, consensus=consensus)
    assert sent.space is Space.LOGITS
    assert sent.scores.argmax(dim=1).tolist() == [2, 1, 0]
    assert bool(torch.isfinite(sent.scores).all())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("attack=alie", "attack.clients=3"), r"3 of clients=3 leaves nobody honest"),
        (("attack=alie", "attack.clients=[0,1,2]"), r"3 of clients=3 leaves nobody honest"),
        (("attack=alie", "attack.clients=[1,1]"), r"\[1, 1\] names a client twice"),
        (("attack=alie", "attack.clients=[5]"), r"names client 5.*ids up to 2"),
        (("attack=alie", "method=fedavg"), r"no knowledge to forge.*attack=null"),
        (("attack=alie", "method=local"), r"no knowledge to forge"),
        (("attack=alie", "attack.strength=1.5"), r"attack\.strength: 1\.5 is refused"),
        (("attack=ali",), r"attack: no adversary client called 'ali'; did you mean 'alie'"),
    ],
)
def test_a_scenario_that_cannot_be_attacked_so_is_refused(tiny, overrides, words):
    with pytest.raises(ConfigError, match=words):
        tiny(*overrides)


def test_a_scenario_names_its_adversaries(tiny):
    assert tiny().attackers() == frozenset()
    assert tiny("attack=alie", "attack.clients=2").attackers() == {1, 2}
    assert tiny("attack={name: alie, clients: [0]}").attackers() == {0}
