"""Numbers and equalities known beforehand: closed forms, section 7 of the methods note, bytes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fedkd_clients.learner import FleetLearner
from fedkd_clients.store import MemoryStore
from fedkd_server.student import ServerStudent
from flwr.common.serde import recorddict_to_proto
from torch.nn import functional

from fedkd.aggregators.mean import Mean
from fedkd.distillers.kl import KL
from fedkd.methods.fedavg import FedAvg
from fedkd.transport.inprocess import InProcessGrid
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.records import count_bytes, reply_records, request_records
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space, Update

CPU = torch.device("cpu")


# An all-ones mask makes EdgeFD FedMD.


def test_edgefd_that_keeps_everything_is_fedmd_bit_for_bit(simulated):
    everything = simulated("method=edgefd", "method.filter=keep_all")
    fedmd, edgefd = simulated("method=fedmd"), simulated("method=edgefd")
    assert everything.digests()[1:] == fedmd.digests()[1:]
    assert everything.summary["result_hash"] == fedmd.summary["result_hash"]
    assert edgefd.summary["result_hash"] != fedmd.summary["result_hash"]


def test_the_selector_switched_off_makes_selective_fd_a_plain_mean(simulated):
    off = simulated("method=selective_fd", "method.filter=keep_all")
    assert off.summary["result_hash"] == simulated("method=fedmd").summary["result_hash"]


# An uncovered row never changes any model.

COVERED = torch.arange(0, 60, 3)


def _proxy(*, seed: int = 0) -> ProxySet:
    rng = torch.Generator().manual_seed(seed)
    return ProxySet(
        inputs=torch.randint(0, 256, (60, 1, 8, 8), generator=rng, dtype=torch.uint8),
        ids=torch.arange(60),
        owner=None,
        source=ProxySource.EXTERNAL,
    )


def _consensus(rows: torch.Tensor = COVERED) -> Consensus:
    rng = torch.Generator().manual_seed(5)
    scores = torch.randn(len(rows), 10, generator=rng).softmax(dim=1)
    return Consensus(rows=rows, scores=scores, space=Space.PROBS, temperature=3.0, keepers=None)


def _other_inputs(proxy: ProxySet, where: torch.Tensor) -> ProxySet:
    inputs = proxy.inputs.clone()
    inputs[where] = 255 - inputs[where]
    return replace(proxy, inputs=inputs)


def _client_after(scenario, proxy: ProxySet, consensus: Consensus, *, closing: bool):
    learner = FleetLearner(scenario, MemoryStore(), device=CPU)
    learner.streams.round = 1
    learner.state(0).proxy = proxy
    if closing:
        learner.distill([0], consensus, KL())
    else:
        learner.fit([0], consensus, KL())
    return learner.parameters([0])[0].arrays


def _student_after(scenario, proxy: ProxySet, consensus: Consensus):
    student = ServerStudent(scenario.server_model, scenario)
    student.learn(consensus, proxy, round=1)
    return student.student.module.state_dict()


def _equal(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(params=["interleaved", "sequential", "closing", "server"])
def trained(request, tiny):
    scenario = tiny("server_model=mlp")
    if request.param == "server":
        return lambda proxy, consensus: _student_after(scenario, proxy, consensus)
    if request.param == "sequential":
        scenario = tiny("training.order=sequential")
    closing = request.param == "closing"
    return lambda proxy, consensus: _client_after(scenario, proxy, consensus, closing=closing)


def test_an_uncovered_row_changes_no_model(trained):
    proxy, uncovered = _proxy(), torch.ones(60, dtype=torch.bool)
    uncovered[COVERED] = False
    as_it_is = trained(proxy, _consensus())
    assert _equal(as_it_is, trained(_other_inputs(proxy, uncovered), _consensus()))
    only = replace(proxy, inputs=proxy.inputs[COVERED], ids=proxy.ids[COVERED])
    assert _equal(as_it_is, trained(only, _consensus(torch.arange(len(COVERED)))))


def test_a_covered_row_does_change_it(trained):
    proxy = _proxy()
    changed = _other_inputs(proxy, COVERED[:1])
    assert not _equal(trained(proxy, _consensus()), trained(changed, _consensus()))


def test_a_consensus_about_no_row_is_no_consensus(tiny):
    empty = _consensus(COVERED[:0])
    for order in ("interleaved", "sequential"):
        scenario = tiny(f"training.order={order}")
        learner = FleetLearner(scenario, MemoryStore(), device=CPU)
        learner.streams.round = 1
        learner.fit([0], None, None)
        alone = learner.parameters([0])[0].arrays
        assert _equal(_client_after(scenario, _proxy(), empty, closing=False), alone)


# Permuting clients leaves the aggregate unchanged.


class Backwards(InProcessGrid):
    """Lists nodes and hands over replies in the opposite order."""

    def get_node_ids(self):
        return list(reversed(super().get_node_ids()))

    def send_and_receive(self, messages, *, timeout=None):
        return list(reversed(super().send_and_receive(messages, timeout=timeout)))


@pytest.mark.parametrize("method", ["edgefd", "edgefd_soft", "fedavg"])
def test_the_order_in_which_clients_answer_changes_no_bit(play, tiny, method):
    scenario = tiny(f"method={method}", "partition=dirichlet")
    forwards, backwards = play(scenario), play(scenario, grid=Backwards)
    assert [r.digest for r in forwards] == [r.digest for r in backwards]
    assert all(r.digest for r in forwards[1:])


def test_permuted_uploads_have_one_mean():
    rng = torch.Generator().manual_seed(0)
    uploads = [
        Knowledge(
            rows=torch.nonzero(torch.rand(50, generator=rng) < 0.6).flatten(),
            scores=torch.empty(0),
            weights=torch.empty(0),
            space=Space.PROBS,
        )
        for _ in range(10)
    ]
    uploads = [
        replace(
            u,
            scores=torch.randn(len(u), 10, generator=rng).softmax(dim=1),
            weights=torch.ones(len(u)),
        )
        for u in uploads
    ]
    mean = Mean().aggregate(uploads, n_rows=50, rng=rng)
    for _ in range(5):
        order = torch.randperm(10, generator=rng).tolist()
        again = Mean().aggregate([uploads[i] for i in order], n_rows=50, rng=rng)
        assert torch.equal(mean.rows, again.rows)
        torch.testing.assert_close(mean.scores, again.scores, rtol=2**-23, atol=0)
    # By hand, in NumPy's float64: sum over keepers, divided by how many there are.
    dense = np.zeros((10, 50, 10))
    kept = np.zeros((10, 50))
    for i, u in enumerate(uploads):
        dense[i, u.rows.numpy()], kept[i, u.rows.numpy()] = u.scores.double().numpy(), 1
    by_hand = dense.sum(axis=0)[mean.rows] / kept.sum(axis=0)[mean.rows, None]
    np.testing.assert_allclose(mean.scores.numpy(), by_hand, rtol=1e-6)


# The byte counter equals the serialised length.


def _serialised(records) -> int:
    return len(recorddict_to_proto(records).SerializeToString())


def _knowledge(n: int, *, n_rows: int, n_classes: int = 10, soft: bool = False) -> Knowledge:
    rows = torch.cat([torch.arange(n - 1), torch.tensor([n_rows - 1])])
    return Knowledge(
        rows=rows,
        scores=torch.full((n, n_classes), 1 / n_classes),
        weights=torch.full((n,), 0.5) if soft else torch.ones(n),
        space=Space.PROBS,
    )


@pytest.mark.parametrize(
    "records",
    [
        request_records(Request(action=Action.HELLO, client=0)),
        request_records(
            Request(action=Action.ROUND, client=0, round=3, incoming=_consensus(), proxy=_proxy())
        ),
        reply_records(Reply(client=1, upload=_knowledge(20, n_rows=60, soft=True))),
        reply_records(Reply(client=1, upload=Update(arrays={"w": torch.ones(3)}, weight=2.0))),
        reply_records(Reply(client=1, contribution=_proxy())),
        reply_records(Reply(client=1, metrics={"accuracy": 0.5})),
    ],
)
def test_counted_bytes_add_up_to_the_serialised_length(records):
    sizes = count_bytes(records)
    assert sum(sizes.values()) == _serialised(records)
    assert all(size > 0 for size in sizes.values())


def test_bytes_of_6000_proxy_rows_are_those_of_the_methods_note():
    # Section 5: 240 kB of float32 scores, a bit-packed mask of 750 bytes, 4.7 MB of uint8 images.
    up = count_bytes(reply_records(Reply(client=0, upload=_knowledge(6000, n_rows=6000))))
    overhead = 300  # NumPy header, names
    assert 240_000 <= up["knowledge"] <= 240_000 + overhead
    assert 750 <= up["masks"] <= 750 + overhead
    images = ProxySet(
        inputs=torch.zeros(6000, 1, 28, 28, dtype=torch.uint8),
        ids=torch.arange(6000),
        owner=None,
        source=ProxySource.POOLED,
    )
    request = Request(action=Action.ROUND, client=0, proxy=images)
    ids = 8 * 6000
    down = count_bytes(request_records(request))["proxy"]
    assert 4_704_000 + ids <= down <= 4_704_000 + ids + 2 * overhead


class Weighing(InProcessGrid):
    """Adds up what every counted message would weigh on a wire."""

    up = down = 0

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        replies = super().send_and_receive(messages, timeout=timeout)
        if all(m.metadata.message_type.startswith("train.") for m in messages):
            Weighing.down += sum(_serialised(m.content) for m in messages)
            Weighing.up += sum(_serialised(m.content) for m in replies)
        return replies


@pytest.mark.parametrize("method", ["edgefd", "fedavg"])
def test_a_run_reports_exactly_the_bytes_of_its_messages(play, tiny, simulated, method):
    Weighing.up = Weighing.down = 0
    play(tiny(f"method={method}"), grid=Weighing)
    summary = simulated(f"method={method}").summary
    assert (summary["bytes_up"], summary["bytes_down"]) == (Weighing.up, Weighing.down)
    assert Weighing.up > 0


# Closed forms.


def test_kl_by_hand_and_by_torch():
    # Student (3/4, 1/4), teacher (1/2, 1/2): ln(2/3) / 2 + ln(2) / 2 = ln(4/3) / 2.
    student, teacher = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.5, 0.5]])
    by_hand = math.log(4 / 3) / 2
    assert KL(temperature=1.0).loss(student, teacher).item() == pytest.approx(by_hand, rel=1e-6)
    # Twice the logits at twice the temperature is the same student; T^2 = 4.
    softened = KL(temperature=2.0).loss(2 * student, teacher)
    assert softened.item() == pytest.approx(4 * by_hand, rel=1e-6)
    # A teacher without doubt: the cross-entropy of its class.
    sure = KL(temperature=1.0).loss(student, torch.tensor([[1.0, 0.0]]))
    assert sure.item() == pytest.approx(math.log(4 / 3), rel=1e-6)
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 7, generator=rng)
    probs = torch.randn(20, 7, generator=rng).softmax(dim=1)
    reference = functional.kl_div(
        (logits / 3).log_softmax(dim=1), probs.log(), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(KL(temperature=3.0).loss(logits, probs).mean(), 9 * reference)


def test_fedavg_of_two_updates_weighted_one_to_three():
    one = Update(arrays={"w": torch.tensor([0.0, 4.0]), "b": torch.tensor([8.0])}, weight=1.0)
    three = Update(arrays={"w": torch.tensor([4.0, 8.0]), "b": torch.tensor([-8.0])}, weight=3.0)
    for uploads in ([one, three], [three, one]):
        mean = FedAvg().server_round(uploads, n_rows=0, rng=torch.Generator())
        assert isinstance(mean, Update)
        assert {k: v.tolist() for k, v in mean.arrays.items()} == {"w": [3.0, 7.0], "b": [-4.0]}
        assert all(v.dtype == torch.float32 for v in mean.arrays.values())


def test_fedavg_weighs_clients_by_their_examples(play, tiny):
    sent = {}

    class Listening(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            for reply in replies:
                if reply.metadata.message_type == "train.round":
                    control = reply.content["control"]
                    sent[control["client"]] = control["weight"]
            return replies

    scenario = tiny("method=fedavg", "rounds=1", "partition=dirichlet")
    play(scenario, grid=Listening)
    learner = FleetLearner(scenario, MemoryStore(), device=CPU)
    assert sent == {c: float(len(learner.private(c).train)) for c in range(3)}
    assert len(set(sent.values())) > 1
