"""The collector of cycles is set for speed, and as it was where others go on with the process."""

from __future__ import annotations

import gc

import pytest

from fedkd import collector


@pytest.fixture(autouse=True)
def _as_before():
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_is_frozen_for_a_fork_is_collected_again_afterwards():
    with collector.shared():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_what_a_process_froze_for_good_stays_so():
    collector.at_last()
    with collector.shared():
        pass
    assert gc.get_freeze_count() > 1000


def test_the_collector_works_on_while_it_is_called_rarely():
    collector.rarely()
    assert gc.isenabled()
    assert gc.get_threshold()[0] > 2000
