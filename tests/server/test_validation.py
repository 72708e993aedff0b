"""Every kind of bad upload is dropped for a reason that gives none of its numbers away."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fedkd_server.exchange import Answers
from fedkd_server.proxy import gather_proxy
from fedkd_server.validation import (
    Expected,
    UploadError,
    check_contribution,
    check_knowledge,
    check_update,
)

from fedkd.data.federation import arrays_of
from fedkd.flat import FlatArrays
from fedkd.transport.codes import as_sent
from fedkd.transport.messages import Reply
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space, Update, Wire

EXPECTED = Expected(space=Space.PROBS, temperature=3.0, n_rows=10, n_classes=3)
LOGITS = replace(EXPECTED, space=Space.LOGITS, temperature=1.0)
NAN, INF = float("nan"), float("inf")


def _good(**changes) -> Knowledge:
    scores = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    good = Knowledge(
        rows=torch.tensor([0, 4, 9]),
        scores=scores,
        weights=torch.tensor([1.0, 0.5, 1e-6]),
        space=Space.PROBS,
        temperature=3.0,
    )
    return replace(good, **changes)


def _scores(value: float) -> torch.Tensor:
    scores = _good().scores.clone()
    scores[1, 0] = value
    return scores


def test_a_sound_upload_passes_unchanged():
    upload = _good()
    assert check_knowledge(upload, EXPECTED) is upload


def test_a_client_may_have_nothing_to_say():
    silent = _good(rows=torch.arange(0), scores=torch.zeros(0, 3), weights=torch.zeros(0))
    assert check_knowledge(silent, EXPECTED) is silent


BAD = {
    "nothing": (None, "no knowledge"),
    "an update": (Update(arrays={}), "no knowledge"),
    "NaN": (_good(scores=_scores(NAN)), "not finite"),
    "infinity": (_good(scores=_scores(INF)), "not finite"),
    "off the simplex": (_good(scores=_scores(0.9)), "not probabilities"),
    "negative": (
        _good(scores=torch.tensor([[1.5, -0.5, 0.0]] * 3)),
        "not probabilities",
    ),
    "too few classes": (_good(scores=torch.full((3, 2), 0.5)), "wrong shape"),
    "too many classes": (_good(scores=torch.full((3, 4), 0.25)), "wrong shape"),
    "fewer scores than rows": (_good(scores=_good().scores[:2]), "wrong shape"),
    "one row broadcast": (_good(scores=_good().scores[:1]), "wrong shape"),
    "flat scores": (_good(scores=torch.ones(3)), "wrong shape"),
    "double": (_good(scores=_good().scores.double()), "not float32"),
    "half": (_good(scores=_good().scores.half()), "not float32"),
    "integers": (_good(scores=torch.tensor([[1, 0, 0]] * 3)), "not float32"),
    "repeated rows": (_good(rows=torch.tensor([0, 4, 4])), "repeated"),
    "unordered rows": (_good(rows=torch.tensor([4, 0, 9])), "repeated or out of order"),
    "row too large": (_good(rows=torch.tensor([0, 4, 10])), "outside the proxy set"),
    "row negative": (_good(rows=torch.tensor([-1, 4, 9])), "outside the proxy set"),
    "one weight for all": (_good(weights=torch.ones(1)), "as many weights"),
    "weights of two dimensions": (_good(weights=torch.ones(3, 1)), "as many weights"),
    "weight zero": (_good(weights=torch.tensor([1.0, 0.0, 1.0])), "weights outside"),
    "weight negative": (_good(weights=torch.tensor([1.0, -0.5, 1.0])), "weights outside"),
    "weight above one": (_good(weights=torch.tensor([1.0, 1.5, 1.0])), "weights outside"),
    "weight 1e9": (_good(weights=torch.tensor([1.0, 1e9, 1.0])), "weights outside"),
    "weight NaN": (_good(weights=torch.tensor([1.0, NAN, 1.0])), "not finite"),
    "weights double": (_good(weights=torch.ones(3).double()), "not float32"),
    "logits where probabilities go": (_good(space=Space.LOGITS), "another space"),
    "another temperature": (_good(temperature=1.0), "another temperature"),
    "temperature NaN": (_good(temperature=NAN), "another temperature"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_dropped_with_its_reason(kind):
    upload, reason = BAD[kind]
    with pytest.raises(UploadError, match=reason) as error:
        check_knowledge(upload, EXPECTED)
    text = str(error.value)
    assert "\n" not in text
    for number in ("nan", "inf", "1e9", "1.5", "0.9"):
        assert number not in text


TOP = {
    "classes": torch.tensor([[0, 2], [1, 0], [2, 1]]),
    "scores": torch.tensor([[0.5, 0.25], [0.75, 0.0], [0.6, 0.4]]),
}


def test_some_classes_of_a_row_are_read_as_all_of_them():
    read = check_knowledge(_good(**TOP), EXPECTED)
    expected = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25], [0.0, 0.4, 0.6]])
    torch.testing.assert_close(read.scores, expected)
    assert read.classes is None
    silent = _good(
        rows=torch.arange(0),
        scores=torch.zeros(0, 2),
        weights=torch.zeros(0),
        classes=torch.zeros(0, 2, dtype=torch.int64),
    )
    assert check_knowledge(silent, EXPECTED).scores.shape == (0, 3)


def _top(**changes) -> Knowledge:
    return _good(**{**TOP, **changes})


BAD_CLASSES = {
    "a class that is not there": (_top(classes=TOP["classes"] + 1), "do not exist"),
    "a negative class": (_top(classes=TOP["classes"] - 1), "do not exist"),
    "a class twice": (_top(classes=torch.tensor([[0, 0], [1, 0], [2, 1]])), "repeated in a row"),
    "of another type": (_top(classes=TOP["classes"].int()), "as many classes"),
    "for fewer rows": (_top(classes=TOP["classes"][:2]), "as many classes"),
    "fewer than scores": (_top(classes=TOP["classes"][:, :1]), "as many classes"),
    "none": (_top(scores=torch.zeros(3, 0), classes=torch.zeros(3, 0).long()), "no classes"),
    "more than all": (
        _top(scores=torch.zeros(3, 4), classes=torch.arange(4).repeat(3, 1)),
        "more than there are",
    ),
    "a label space of its own": (_good(classes=torch.arange(3)), "label space"),
    "of one dimension less": (_good(classes=torch.tensor(3)), "label space"),
    "more than one in all": (_top(scores=torch.full((3, 2), 0.75)), "not probabilities"),
    "negative scores": (_top(scores=torch.full((3, 2), -0.1)), "not probabilities"),
    "all classes, but not one in all": (
        _top(scores=torch.full((3, 3), 0.2), classes=torch.arange(3).repeat(3, 1)),
        "not probabilities",
    ),
}


@pytest.mark.parametrize("kind", BAD_CLASSES)
def test_bad_classes_are_dropped_with_their_reason(kind):
    upload, reason = BAD_CLASSES[kind]
    with pytest.raises(UploadError, match=reason):
        check_knowledge(upload, EXPECTED)


def test_logits_of_some_classes_are_dropped():
    upload = _top(space=Space.LOGITS, temperature=1.0)
    with pytest.raises(UploadError, match="logits of some classes"):
        check_knowledge(upload, LOGITS)


TELLING = replace(EXPECTED, row_temperatures=(3.0, 8.1))


def _told(*values: float) -> Knowledge:
    return _good(row_temperatures=torch.tensor(values))


def test_temperatures_told_in_the_protectors_range_pass():
    upload = _told(3.0, 4.5, 8.1)
    assert check_knowledge(upload, TELLING) is upload


@pytest.mark.parametrize(
    ("upload", "expected", "reason"),
    [
        (_told(3.0, 3.0, 3.0), EXPECTED, "where none are"),
        (_good(), TELLING, "none where they are"),
        (_told(3.0, 3.0), TELLING, "as many float32 temperatures"),
        (_good(row_temperatures=torch.full((3,), 3.0).double()), TELLING, "float32"),
        (_told(3.0, 2.9, 3.0), TELLING, "out of the protector's range"),
        (_told(3.0, 8.2, 3.0), TELLING, "out of the protector's range"),
        (_told(3.0, 1e6, 3.0), TELLING, "out of the protector's range"),
        (_told(3.0, NAN, 3.0), TELLING, "out of the protector's range"),
        (_told(3.0, INF, 3.0), TELLING, "out of the protector's range"),
    ],
)
def test_bad_temperatures_are_dropped_with_their_reason(upload, expected, reason):
    with pytest.raises(UploadError, match=reason):
        check_knowledge(upload, expected)


@pytest.mark.parametrize("n_rows", [0, 3, 9])
def test_rows_are_judged_by_this_runs_proxy_set(n_rows):
    with pytest.raises(UploadError, match="outside the proxy set"):
        check_knowledge(_good(), replace(EXPECTED, n_rows=n_rows))


def test_logits_pass_where_they_are_expected_and_not_beyond_the_limit():
    logits = _good(scores=10 * torch.eye(3), space=Space.LOGITS, temperature=1.0)
    assert check_knowledge(logits, LOGITS) is logits
    with pytest.raises(UploadError, match="beyond the limit"):
        check_knowledge(replace(logits, scores=-1000 * 1000 * torch.ones(3, 3)), LOGITS)
    with pytest.raises(UploadError, match="not finite"):
        check_knowledge(replace(logits, scores=torch.full((3, 3), NAN)), LOGITS)


SENT = Update(arrays={"w": torch.zeros(2, 3), "b": torch.zeros(3)})


def _update(weight: float = 5.0, **changes) -> Update:
    return Update(arrays={"w": torch.ones(2, 3), "b": torch.ones(3), **changes}, weight=weight)


def test_a_sound_update_passes_unchanged():
    upload = _update()
    sound = check_update(upload, SENT)
    assert sound.weight == upload.weight
    assert {name: value.tolist() for name, value in sound.arrays.items()} == {
        "w": [[1.0] * 3] * 2,
        "b": [1.0] * 3,
    }
    assert check_update(sound, SENT) is sound


def test_parameters_in_another_order_are_put_into_that_in_which_they_were_sent():
    turned = Update(arrays=dict(reversed(_update(b=torch.zeros(3)).arrays.items())))
    assert list(turned.arrays) == ["b", "w"]
    vector = FlatArrays.of(check_update(turned, SENT).arrays).vector
    assert vector.tolist() == [1.0] * 6 + [0.0] * 3


BAD_UPDATES = {
    "nothing": (None, "no update"),
    "knowledge": (_good(), "no update"),
    "a parameter missing": (Update(arrays={"w": torch.ones(2, 3)}), "other parameters"),
    "a parameter more": (_update(c=torch.ones(1)), "other parameters"),
    "another name": (
        Update(arrays={"w": torch.ones(2, 3), "c": torch.ones(3)}),
        "other parameters",
    ),
    "one number broadcast": (_update(b=torch.ones(1)), "another shape"),
    "transposed": (_update(w=torch.ones(3, 2)), "another shape"),
    "double": (_update(b=torch.ones(3).double()), "another shape or type"),
    "NaN parameter": (_update(b=torch.tensor([0.0, NAN, 0.0])), "not finite"),
    "infinite parameter": (_update(b=torch.tensor([0.0, INF, 0.0])), "not finite"),
    "weight NaN": (_update(weight=NAN), "no number of examples"),
    "weight infinite": (_update(weight=INF), "no number of examples"),
    "weight 1e9": (_update(weight=1e9), "no number of examples"),
    "weight -5": (_update(weight=-5), "no number of examples"),
    "weight 0": (_update(weight=0.0), "no number of examples"),
}


@pytest.mark.parametrize("kind", BAD_UPDATES)
def test_a_bad_update_is_dropped_with_its_reason(kind):
    upload, reason = BAD_UPDATES[kind]
    with pytest.raises(UploadError, match=reason):
        check_update(upload, SENT)


@pytest.mark.parametrize("sent", [None, "consensus"])
def test_an_update_nobody_asked_for_is_dropped(sent):
    if sent:
        sent = Consensus(
            rows=torch.arange(0),
            scores=torch.zeros(0, 3),
            space=Space.PROBS,
            temperature=1.0,
            keepers=None,
        )
    with pytest.raises(UploadError, match="no update"):
        check_update(_update(), sent)


LIKE = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)


def _share(inputs: torch.Tensor, ids: torch.Tensor | None = None) -> ProxySet:
    return ProxySet(
        inputs=inputs,
        ids=torch.arange(len(inputs)) if ids is None else ids,
        owner=None,
        source=ProxySource.POOLED,
    )


def test_a_sound_contribution_passes_unchanged():
    share = _share(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    assert check_contribution(share, like=LIKE) is share
    assert check_contribution(share, like=None) is share


@pytest.mark.parametrize(
    ("share", "like", "reason"),
    [
        (None, LIKE, "no contribution"),
        (_share(torch.zeros(3, 1, 4, 5, dtype=torch.uint8)), LIKE, "another shape"),
        (_share(torch.zeros(3, 1, 4, 4)), LIKE, "another shape or type"),
        (_share(torch.full((3, 4), NAN)), None, "not finite"),
        (_share(torch.zeros(3, 4, dtype=torch.int64)), None, "neither uint8, int16 nor float32"),
        (_share(torch.zeros(3, 4), torch.arange(2)), None, "as many ids"),
        (_share(torch.zeros(3, 4), torch.zeros(3)), None, "as many ids"),
        (_share(torch.zeros(3, 4), torch.tensor([1, 2, 1])), None, "repeated"),
        (_share(torch.zeros(3, 4), torch.tensor([-1, 2, 3])), None, "ids"),
    ],
)
def test_a_bad_contribution_is_dropped_with_its_reason(share, like, reason):
    with pytest.raises(UploadError, match=reason):
        check_contribution(share, like=like)


def test_one_client_does_not_swamp_the_proxy_set(tiny):
    """All others would be sent it; a client on a device may hold any number of examples."""
    scenario = tiny("clients=2")
    like = torch.from_numpy(arrays_of(scenario.layout()).train_inputs[:1])
    most = len(arrays_of(scenario.layout()).train_inputs)

    def asked(requests):
        given = {0: most, 1: most + 1}
        replies = {
            client: Reply(client=client, contribution=_share(like.expand(n, *like.shape[1:])))
            for client, n in given.items()
        }
        return Answers(replies=replies)

    exchange = SimpleNamespace(ask=asked, simulated=frozenset())
    proxy, answers = gather_proxy(exchange, scenario)
    assert proxy.owner is not None
    assert set(proxy.owner.tolist()) == {0}
    assert [(f.client, f.reason) for f in answers.failures] == [
        (1, "more inputs than the scenario's data set has")
    ]


# Wire formats.

FORMATS = [Wire.FLOAT16, Wire.BFLOAT16]


@pytest.mark.parametrize("wire", FORMATS)
def test_scores_in_the_agreed_format_pass_as_they_came(wire):
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 3, generator=rng).softmax(dim=1)
    upload = as_sent(_good(scores=scores), wire)
    assert check_knowledge(upload, replace(EXPECTED, wire=wire)) is upload


@pytest.mark.parametrize("wire", FORMATS)
def test_scores_in_another_format_are_dropped(wire):
    with pytest.raises(UploadError, match="scores are not float32"):
        check_knowledge(as_sent(_good(), wire), EXPECTED)
    with pytest.raises(UploadError, match=f"scores are not {wire.value}"):
        check_knowledge(_good(), replace(EXPECTED, wire=wire))


def test_rows_may_miss_one_by_the_rounding_of_their_format_and_no_more():
    exact = torch.tensor([[0.5, 0.25, 0.25 + 0.003]])
    one_row = _good(rows=torch.tensor([0]), scores=exact, weights=torch.ones(1))
    rough = as_sent(one_row, Wire.BFLOAT16)
    assert float(rough.scores.float().sum()) > 1.002
    assert check_knowledge(rough, replace(EXPECTED, wire=Wire.BFLOAT16)) is rough
    with pytest.raises(UploadError, match="not probabilities"):
        check_knowledge(one_row, EXPECTED)
    off = as_sent(replace(one_row, scores=exact + 0.01), Wire.BFLOAT16)
    with pytest.raises(UploadError, match="not probabilities"):
        check_knowledge(off, replace(EXPECTED, wire=Wire.BFLOAT16))


def test_a_logit_that_no_format_holds_is_dropped():
    upload = _good(scores=_scores(1e5), space=Space.LOGITS, temperature=1.0)
    with pytest.raises(UploadError, match="not finite"):
        check_knowledge(as_sent(upload, Wire.FLOAT16), replace(LOGITS, wire=Wire.FLOAT16))


def test_few_bits_need_no_format():
    few = _good(scores=torch.tensor([[1.0, 0.0, 0.0]] * 3), bits=1)
    sent = as_sent(few, Wire.FLOAT16)
    assert check_knowledge(sent, replace(EXPECTED, wire=Wire.FLOAT16)) is sent


@pytest.mark.parametrize("wire", FORMATS)
def test_some_classes_of_a_short_format_become_all_classes_as_float32(wire):
    top = _good(scores=torch.tensor([[0.7], [0.5], [0.9]]), classes=torch.tensor([[2], [0], [1]]))
    whole = check_knowledge(as_sent(top, wire), replace(EXPECTED, wire=wire))
    assert whole.scores.dtype == torch.float32
    assert whole.wire is Wire.FLOAT32
    torch.testing.assert_close(whole.scores.sum(dim=1), torch.ones(3), rtol=0, atol=1e-6)
