"""What one client raises is its own failure, also where many are served at once."""

from __future__ import annotations

from fedkd_clients.guard import Guard


def test_all_are_served_at_once_where_nothing_fails():
    guard, calls = Guard(), []
    guard.together([1, 2, 3], lambda clients: calls.append(list(clients)))
    assert calls == [[1, 2, 3]]
    assert guard.take(2) is None


def test_where_one_fails_the_others_are_served_alone():
    guard, served = Guard(), []

    def serve(clients) -> None:
        if 2 in clients:
            raise ValueError("client 2")
        served.extend(clients)

    guard.together([1, 2, 3], serve)
    assert served == [1, 3]
    assert isinstance(guard.take(2), ValueError)
    assert guard.take(1) is guard.take(3) is None


def test_what_is_tried_alone_can_be_something_else():
    guard, alone = Guard(), []

    def serve(clients) -> None:
        raise RuntimeError("the block")

    guard.together([4, 5], serve, alone=alone.append)
    assert alone == [4, 5]
    assert guard.take(4) is guard.take(5) is None


def test_who_failed_before_is_left_out():
    guard, calls = Guard(), []
    guard.fail(1, KeyError("earlier"))
    guard.together([1, 2], lambda clients: calls.append(list(clients)))
    guard.together([1], lambda clients: calls.append(list(clients)))
    assert calls == [[2]]
    assert isinstance(guard.take(1), KeyError)
