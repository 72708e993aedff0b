"""What every method promises: two rounds of it run, and only its kind of message crosses."""

from __future__ import annotations

import pytest

from fedkd.methods.base import CoDistillation, MessageKind, methods
from fedkd.privacy.releases import lacks_noise

every_method = pytest.mark.parametrize("name", methods.names())
KEYS = {
    "accuracy_mean",
    "accuracy_worst",
    "accuracy_distilled_mean",
    "accuracy_local_mean",
    "teacher_accuracy",
    "coverage",
    "keepers_per_row",
    "bytes_up",
    "bytes_down",
    "seconds",
    "seconds_per_round",
    "peak_rss_mb",
    "privacy_claim",
    "epsilon",
    "result_hash",
    "run_dir",
    "scenario_hash",
}
CROSSES = {
    MessageKind.KNOWLEDGE: (
        {"control", "proxy", "knowledge", "masks"},
        {"control", "proxy", "consensus", "masks"},
    ),
    MessageKind.UPDATE: ({"control", "update"}, {"control", "update"}),
    MessageKind.NOTHING: ({"control"}, {"control"}),
}


@pytest.fixture
def outcome(name, simulated):
    method = methods.get(name)()
    if isinstance(method, CoDistillation) and lacks_noise(method.aggregator):
        # Three clients: anything that hides one would hide the answer too.
        return simulated(f"method={name}", "method.aggregator.noise_multiplier=0.001")
    return simulated(f"method={name}")


@every_method
def test_it_finishes_and_says_all_there_is_to_say(name, outcome):
    summary = outcome.summary
    assert set(summary) >= KEYS
    assert summary["status"] == "finished"
    assert summary["method"] == name
    assert (summary["rounds_done"], summary["failures"]) == (2, 0)
    assert summary["privacy_claim"] == "no formal guarantee"
    assert summary["epsilon"] is None
    for key in (
        "accuracy_mean",
        "accuracy_worst",
        "accuracy_distilled_mean",
        "accuracy_local_mean",
    ):
        assert 0 <= summary[key] <= 1
    assert summary["accuracy_worst"] <= summary["accuracy_mean"] + 1e-9  # rounding of a mean


@every_method
def test_only_its_kind_of_message_crosses(name, outcome):
    summary, kind = outcome.summary, methods.get(name).message
    up, down = CROSSES[kind]
    by_kind = summary["bytes_by_kind"]
    assert set(by_kind["up"]) == up
    assert set(by_kind["down"]) == down
    assert sum(by_kind["up"].values()) == summary["bytes_up"]
    assert sum(by_kind["down"].values()) == summary["bytes_down"]


@every_method
def test_what_it_has_no_part_in_is_none_and_not_zero(name, outcome):
    summary, kind = outcome.summary, methods.get(name).message
    consensus = {
        summary[k] is not None for k in ("teacher_accuracy", "coverage", "keepers_per_row")
    }
    assert consensus == {kind is MessageKind.KNOWLEDGE}
    assert (summary["server_accuracy"] is not None) == (kind is MessageKind.UPDATE)
    assert [bool(digest) for digest in outcome.digests()[1:]] == [
        kind is not MessageKind.NOTHING
    ] * 2


@every_method
def test_an_oracle_is_called_one(name, outcome):
    warned = any("oracle" in sentence for sentence in outcome.summary["privacy_warnings"])
    assert warned == methods.get(name).oracle


@every_method
def test_shared_raw_examples_are_told(name, outcome):
    warned = any("raw private examples" in s for s in outcome.summary["privacy_warnings"])
    assert warned == (methods.get(name).message is MessageKind.KNOWLEDGE)
