"""The server's checks give back a sound upload or an UploadError, whatever tensors they are shown.

The decoder already refuses much of this; the checks do not rely on it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from fedkd_server.validation import (
    EXAMPLE_LIMIT,
    Expected,
    UploadError,
    check_contribution,
    check_knowledge,
    check_update,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.types import LOGIT_LIMIT, Knowledge, ProxySet, ProxySource, Space, Update, Wire

N_ROWS, N_CLASSES = 6, 3
EXPECTED = Expected(space=Space.PROBS, temperature=3.0, n_rows=N_ROWS, n_classes=N_CLASSES)
MANY = settings(max_examples=500)
KINDS = [
    *(torch.float32, torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64),
]
NUMBERS = st.one_of(
    st.integers(-2, 7),
    st.floats(-1, 2),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e38, 1e9, -5, 0.5, 0.25, 2**40]),
)
SHAPES = st.one_of(
    st.lists(st.integers(0, 4), max_size=3), st.sampled_from([[2, 3], [2], [1, 3], [6, 3], [0, 3]])
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape, kind = draw(SHAPES), draw(st.sampled_from(KINDS))
    size = int(torch.tensor(shape, dtype=torch.int64).prod())
    values = draw(st.lists(NUMBERS, min_size=size, max_size=size))
    return torch.tensor(values, dtype=torch.float64).reshape(shape).to(kind)


@st.composite
def knowledge(draw: st.DrawFn) -> Knowledge:
    """Return knowledge that is sound but for some of its parts, or not even that."""
    n = draw(st.integers(0, 3))
    made = Knowledge(
        rows=torch.arange(n) * 2,
        scores=torch.full((n, N_CLASSES), 1 / N_CLASSES),
        weights=torch.ones(n),
        space=draw(st.sampled_from([Space.PROBS, Space.PROBS, Space.LOGITS])),
        temperature=draw(st.sampled_from([3.0, 3.0, 1.0, float("nan")])),
    )
    if draw(st.booleans()):
        made = replace(
            made, scores=made.scores[:, :2], classes=torch.tensor([[0, 2]] * n).view(n, 2)
        )
    parts = ["rows", "scores", "weights", "classes", "row_temperatures", "bits", "wire"]
    for part in draw(st.lists(st.sampled_from(parts), max_size=3)):
        if part == "bits":
            made = replace(made, bits=draw(st.integers(-1, 20)))
        elif part == "wire":
            made = replace(made, wire=draw(st.sampled_from(list(Wire))))
        else:
            made = replace(made, **{part: draw(tensors())})
    return made


EXPECTATIONS = st.builds(
    Expected,
    space=st.sampled_from(list(Space)),
    temperature=st.sampled_from([3.0, 1.0]),
    n_rows=st.just(N_ROWS),
    n_classes=st.just(N_CLASSES),
    row_temperatures=st.sampled_from([None, None, (3.0, 8.0)]),
    wire=st.sampled_from(list(Wire)),
)


@given(knowledge(), st.one_of(st.just(EXPECTED), EXPECTATIONS))
@MANY
def test_knowledge(upload, expected):
    try:
        sound = check_knowledge(upload, expected)
    except UploadError:
        return
    scores = sound.scores.float()
    assert scores.shape == (len(sound.rows), N_CLASSES)
    assert set(sound.rows.tolist()) <= set(range(N_ROWS))
    assert len(sound.rows.unique()) == len(sound.rows)
    assert bool(torch.isfinite(scores).all())
    assert bool((scores.abs() <= LOGIT_LIMIT).all())
    assert bool(((sound.weights > 0) & (sound.weights <= 1)).all())
    if sound.space is Space.PROBS:
        assert bool(((scores.sum(dim=1) - 1).abs() < 0.01).all())


SENT = Update(arrays={"w": torch.zeros(2, 3), "b": torch.zeros(3)})


@given(
    st.dictionaries(
        st.sampled_from(["w", "b", "c"]),
        st.one_of(tensors(), st.just(torch.ones(2, 3)), st.just(torch.ones(3))),
    ),
    st.one_of(st.floats(), st.integers(-5, 5), st.sampled_from([1e9, 17.0])),
)
@MANY
def test_updates(arrays, weight):
    try:
        sound = check_update(Update(arrays=arrays, weight=weight), SENT)
    except UploadError:
        return
    assert {name: value.shape for name, value in sound.arrays.items()} == {
        name: value.shape for name, value in SENT.arrays.items()
    }
    assert all(bool(torch.isfinite(value).all()) for value in sound.arrays.values())
    assert 0 < sound.weight <= EXAMPLE_LIMIT


@given(tensors(), tensors(), st.sampled_from([None, torch.zeros(1, 3), torch.zeros(1)]))
@MANY
def test_contributions(inputs, ids, like):
    given_up = ProxySet(inputs=inputs, ids=ids, owner=None, source=ProxySource.POOLED)
    try:
        sound = check_contribution(given_up, like=like, n_ids=N_ROWS)
    except UploadError:
        return
    assert len(sound.ids.unique()) == len(sound)
    assert set(sound.ids.tolist()) <= set(range(N_ROWS))
    assert like is None or sound.inputs.shape[1:] == like.shape[1:]
    assert bool(torch.isfinite(sound.inputs.float()).all())
