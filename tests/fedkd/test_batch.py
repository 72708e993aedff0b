"""The groups of clients, and the tree in which their sums are added up."""

from __future__ import annotations

import pytest

from fedkd.transport.batch import GROUPS, Harvest, climb, group_of, groups_of, members_of, share_of


def _pair(left: str, right: str) -> str:
    return f"({left} {right})"


def _leaves(groups) -> dict[tuple[int, int], str]:
    return {(0, group): str(group) for group in groups}


def test_groups_are_neighbors_and_hold_everybody_once():
    for n_clients in (1, 5, 16, 17, 100, 1000):
        members = [members_of(g, n_clients=n_clients) for g in groups_of(n_clients)]
        assert [c for some in members for c in some] == list(range(n_clients))
        assert all(group_of(c, n_clients=n_clients) == g for g, m in enumerate(members) for c in m)


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("n_clients", [3, 16, 100])
def test_every_group_has_one_worker_and_no_worker_two_more_than_another(n_workers, n_clients):
    shares = [share_of(n, n_workers=n_workers, n_clients=n_clients) for n in range(n_workers)]
    assert [g for share in shares for g in share] == list(groups_of(n_clients))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_all_groups_add_up_in_pairs():
    (whole,) = climb(_leaves(range(4)), _pair, within=range(4), n_clients=4).items()
    assert whole == ((2, 0), "((0 1) (2 3))")


@pytest.mark.parametrize("n_workers", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("present", [range(16), [0, 3, 4, 5, 11, 15], [7], range(1, 16, 2)])
def test_the_whole_is_put_together_in_one_way_however_many_put_it_together(n_workers, present):
    alone = climb(_leaves(present), _pair, within=range(GROUPS), n_clients=100)
    handed: dict[tuple[int, int], str] = {}
    for n in range(n_workers):
        mine = share_of(n, n_workers=n_workers, n_clients=100)
        leaves = _leaves(g for g in present if g in mine)
        handed |= climb(leaves, _pair, within=mine, n_clients=100)
    assert climb(handed, _pair, within=range(GROUPS), n_clients=100) == alone
    assert len(alone) == 1


def test_two_workers_hand_over_one_sum_each():
    for mine in (share_of(n, n_workers=2, n_clients=100) for n in range(2)):
        assert len(climb(_leaves(mine), _pair, within=mine, n_clients=100)) == 1


def test_fewer_groups_than_a_full_tree_has():
    (whole,) = climb(_leaves(range(5)), _pair, within=range(5), n_clients=5).values()
    assert whole == "(((0 1) (2 3)) 4)"


def test_a_whole_harvest_holds_all_of_its_parts():
    first = Harvest(answered=[1], failures=[(2, "late")], states={(0, 0): "a"}, waited=2.0)
    second = Harvest(answered=[9], refused=[(9, "twice")], states={(0, 1): "b"}, waited=1.0)
    first.bytes_up["update"] = second.bytes_up["update"] = 5
    whole = Harvest.of([first, second])
    assert (whole.answered, whole.failures, whole.refused) == (
        [1, 9],
        [(2, "late")],
        [(9, "twice")],
    )
    assert whole.states == {(0, 0): "a", (0, 1): "b"}
    assert (whole.waited, whole.bytes_up["update"]) == (2.0, 10)
