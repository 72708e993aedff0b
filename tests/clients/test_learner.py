"""Looking at a client changes nothing, and a client that is left out stays as it was."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from fedkd_clients.fleet import Fleet
from fedkd_clients.learner import FleetLearner
from fedkd_clients.store import MemoryStore

from fedkd.distillers.kl import KL
from fedkd.filters.kmeans import KMeansFilter
from fedkd.flat import FlatArrays
from fedkd.training.executors.stacked import Stacked
from fedkd.types import Consensus, ProxySet, ProxySource, Space

CPU = torch.device("cpu")


def _learner(scenario) -> FleetLearner:
    learner = FleetLearner(scenario, MemoryStore(), device=CPU)
    learner.streams.round = 1
    rng = torch.Generator().manual_seed(0)
    proxy = ProxySet(
        inputs=torch.randint(0, 256, (40, 1, 8, 8), generator=rng, dtype=torch.uint8),
        ids=torch.arange(40),
        owner=torch.full((40,), -1),
        source=ProxySource.POOLED,
    )
    for client in range(scenario.clients):
        learner.state(client).proxy = proxy
    return learner


def _teacher() -> Consensus:
    rng = torch.Generator().manual_seed(1)
    return Consensus(
        rows=torch.arange(40),
        scores=torch.randn(40, 10, generator=rng).softmax(dim=1),
        space=Space.PROBS,
        temperature=3.0,
        keepers=None,
    )


def _everything(learner: FleetLearner, client: int):
    student = learner.packing(client).student(learner.state(client).row)
    return copy.deepcopy((student.module.state_dict(), student.optimizer.state_dict()["state"]))


def _same(left, right) -> bool:
    (module, slots), (other_module, other_slots) = left, right
    return all(torch.equal(module[k], other_module[k]) for k in module) and (
        slots.keys() == other_slots.keys()
        and all(torch.equal(slots[i][k], other_slots[i][k]) for i in slots for k in slots[i])
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_what_is_done_to_copies_leaves_the_originals_alone(tiny, optimizer):
    learner = _learner(tiny(f"training.optimizer={optimizer}"))
    learner.fit([0, 1], None, None)
    before = _everything(learner, 0)
    twin = learner.copies([0, 1])
    assert _same(_everything(twin, 0), before)
    twin.distill([0, 1], _teacher(), KL())
    twin.fit([0], _teacher(), KL())
    assert not _same(_everything(twin, 0), before)
    assert _same(_everything(learner, 0), before)


def test_a_copy_does_what_its_original_would(tiny):
    learner = _learner(tiny())
    learner.fit([0], None, None)
    twin = learner.copies([0])
    for one in (learner, twin):
        one.round = 2
        one.fit([0], _teacher(), KL())
    assert _same(_everything(learner, 0), _everything(twin, 0))


def test_clients_trained_together_and_apart_are_the_same(tiny):
    together, apart = _learner(tiny()), _learner(tiny())
    together.fit([0, 1, 2], _teacher(), KL())
    for client in (2, 0, 1):
        apart.fit([client], _teacher(), KL())
    for client in range(3):
        assert _same(_everything(together, client), _everything(apart, client))


def test_measuring_predicting_and_weighing_change_nothing(tiny):
    learner = _learner(tiny())
    learner.fit([0], None, None)
    before = _everything(learner, 0)
    learner.figures(0, learner.private(0).local_test)
    first = learner.predict([0], [torch.arange(10)])
    learner.weigh([0], KMeansFilter())
    learner.parameters([0])
    assert _same(_everything(learner, 0), before)
    assert torch.equal(learner.predict([0], [torch.arange(10)])[0], first[0])


def test_parameters_that_were_given_stay_as_they_are(tiny):
    learner = _learner(tiny("method=fedavg", "models=mlp"))
    (start,) = learner.parameters([0])
    learner.load_parameters([0, 1], start)
    for step in range(3):
        learner.fit([0, 1], None, None)
        (given,) = learner.parameters([0])
        before = FlatArrays.of(given.arrays).vector.clone()
        learner.fit([0, 1], None, None)
        learner.keep(0)
        learner.load_parameters([0], start)
        assert torch.equal(FlatArrays.of(given.arrays).vector, before), step


def test_a_round_that_is_given_up_leaves_the_row_as_it_was(tiny):
    learner = _learner(tiny())
    before = _everything(learner, 0)
    learner.fit([0], _teacher(), KL())
    assert not _same(_everything(learner, 0), before)
    learner.state(0).revert()
    assert _same(_everything(learner, 0), before)
    learner.fit([0], _teacher(), KL())
    trained = _everything(learner, 0)
    learner.keep(0)
    learner.state(0).revert()
    assert _same(_everything(learner, 0), trained)


def test_a_new_client_s_model_is_drawn_where_it_is_first_needed(tiny):
    learner, expected = _learner(tiny()), _learner(tiny())
    for client in (0, 1):
        assert learner.state(client).kept is None
        expected.state(client).row.clone()  # of this one, it is there before its first draft
        assert expected.state(client).kept is not None
    for one in (learner, expected):
        one.fit([0, 1], _teacher(), KL())
    assert learner.state(0).kept is None, "its draft began as it would have begun"
    for client in (0, 1):
        assert _same(_everything(learner, client), _everything(expected, client))
    learner.state(0).revert()
    expected.state(0).revert()
    assert _same(_everything(learner, 0), _everything(expected, 0))
    learner.keep(1)
    assert _same(_everything(learner, 1), _everything(expected, 1))


def test_what_a_new_client_was_sent_can_be_given_up(tiny):
    learner, expected = _learner(tiny()), _learner(tiny())
    (sent,) = expected.parameters([1])
    before = _everything(expected, 0)
    learner.load_parameters([0], sent)
    assert learner.state(0).kept is None, "nothing was drawn that is overwritten"
    (found,) = learner.parameters([0])
    assert torch.equal(FlatArrays.of(found.arrays).vector, FlatArrays.of(sent.arrays).vector)
    learner.state(0).revert()
    assert _same(_everything(learner, 0), before)


def test_where_a_block_fails_those_that_were_loaded_are_trained_from_what_was_loaded(
    tiny, monkeypatch
):
    scenario = tiny("method=fedavg", "models=mlp", "clients=3")
    (start,) = _learner(scenario).parameters([2])
    expected, found = _learner(scenario), _learner(scenario)
    for learner in (expected, found):
        learner.fit([1], None, None)  # its optimiser has a state, which loading leaves alone

    def spoil(self, rows, jobs, *, packing):
        rows.fill_(7.0)
        raise RuntimeError("half way")

    for learner in (expected, found):
        learner.load_parameters([0, 1], start)
        with monkeypatch.context() as patch:
            if learner is found:
                patch.setattr(Stacked, "train", spoil)
            learner.fit([0, 1], None, None)
    for client in (0, 1):
        torch.testing.assert_close(
            found.state(client).row, expected.state(client).row, rtol=1e-4, atol=1e-5
        )


def test_only_the_rows_asked_for_are_predicted(tiny):
    learner = _learner(tiny())
    rows = torch.tensor([3, 30])
    some, everything = learner.predict([0, 0], [rows, torch.arange(40)])
    assert some.shape == (2, 10)
    torch.testing.assert_close(some, everything[rows])
    assert learner.predict([0], [rows[:0]])[0].shape[0] == 0


def test_a_client_that_keeps_nothing_still_uploads_rows_of_the_right_width(tiny):
    learner = _learner(tiny())
    (nothing,) = learner.predict([0], [torch.arange(0)])
    assert nothing.shape == (0, 10)


def test_a_client_the_cohort_skips_is_untouched(play, tiny):
    scenario = tiny("cohort=1", "rounds=4", "clients=3")
    store, history = MemoryStore(), []
    fleet = Fleet(scenario, store, device=CPU, simulated=True)

    def note(result) -> None:
        states = {}
        for client in range(3):
            student = fleet._learner.packing(client).student(fleet._learner.state(client).row)
            states[client] = copy.deepcopy(student.module.state_dict())
        history.append((result.cohort, states))

    results = play(scenario, fleet_for=lambda _: fleet, after_round=note)
    assert len(results) == 5
    skipped = trained = 0
    for (_, before), (members, after) in itertools.pairwise(history):
        for client in range(3):
            same = all(torch.equal(before[client][k], after[client][k]) for k in before[client])
            assert same == (client not in members)
            skipped, trained = skipped + same, trained + (not same)
    assert (skipped, trained) == (8, 4)


@pytest.mark.parametrize("method", ["edgefd", "fedavg", "fedmd"])
def test_measuring_less_often_gives_the_same_run(play, tiny, method):
    runs = [play(tiny("rounds=4", f"method={method}", f"measure_every={n}")) for n in (1, 2, 9)]
    digests = [[r.digest for r in run] for run in runs]
    assert digests[0] == digests[1] == digests[2]
    measured = [[any(m.name == "accuracy" for m in r.measurements) for r in run] for run in runs]
    assert measured == [
        [False, True, True, True, True],
        [False, False, True, False, True],
        [False, False, False, False, True],
    ]
    closing = [
        [m.value for m in run[-1].measurements if m.name.startswith("accuracy")] for run in runs
    ]
    assert closing[0] == closing[1] == closing[2]
