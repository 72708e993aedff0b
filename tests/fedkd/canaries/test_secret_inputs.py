"""Image and table canaries: the secret is uniform, the public parts are the same for everybody."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from fedkd.canaries.base import Canary
from fedkd.canaries.odd import random_input, random_tiles
from fedkd.canaries.pattern import Pattern
from fedkd.canaries.secret_label import Look, SecretLabel
from fedkd.canaries.settings import Canaries
from fedkd.data.datasets.base import Arrays
from fedkd.data.datasets.digits import Digits
from fedkd.errors import ConfigError

IMAGES = Digits().load()


def _table(n: int = 300) -> Arrays:
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(n + 90, 6)).astype(np.float32)
    inputs[:, 1] = inputs[:, 0]  # two columns that always agree
    labels = (inputs[:, 0] > 0).astype(np.int64)
    return Arrays(
        train_inputs=inputs[:n],
        train_labels=labels[:n],
        test_inputs=inputs[n:],
        test_labels=labels[n:],
        n_classes=2,
    )


TABLE = _table()
FAMILIES = [*(SecretLabel(look=look) for look in Look), Pattern(), Pattern(candidates=7)]
DATA = {"images": IMAGES, "table": TABLE}
both = pytest.mark.parametrize("kind", DATA)
every = pytest.mark.parametrize("family", FAMILIES, ids=repr)


def _canary(family, arrays, *, number: int = 3, insertions: int = 4) -> Canary:
    settings = Canaries(family=family, insertions=(insertions,), per_level=number + 1)
    return settings.draw(arrays, n_clients=5, seed=11)[number]


def _rows(family, arrays, canary):
    return family.rows(arrays, canary, rng=np.random.default_rng(0))


@both
@every
def test_the_secrets_probe_is_what_was_inserted(kind, family):
    arrays = DATA[kind]
    canary = _canary(family, arrays)
    inputs, labels = _rows(family, arrays, canary)
    assert inputs.shape == (4, *arrays.input_shape)
    assert (inputs.dtype, labels.dtype) == (arrays.train_inputs.dtype, np.int64)
    k = family.n_secrets(arrays)
    probes = family.probes(arrays, canary, np.arange(k))
    assert probes.inputs.dtype == inputs.dtype
    assert len(probes.inputs) == len(probes.labels) == len(probes.scored) == k
    assert probes.scored.all()
    assert (inputs == probes.inputs[canary.secret]).all()
    assert (labels == probes.labels[canary.secret]).all()
    wrong = [
        secret
        for secret in range(k)
        if (probes.inputs[secret] == inputs[0]).all() and probes.labels[secret] == labels[0]
    ]
    assert wrong == [canary.secret], "no other candidate is the same example"


@both
@every
def test_probes_are_about_the_asked_secrets_in_that_order(kind, family):
    arrays = DATA[kind]
    canary = _canary(family, arrays)
    k = family.n_secrets(arrays)
    whole = family.probes(arrays, canary, np.arange(k))
    some = np.array([k - 1, 0])
    probes = family.probes(arrays, canary, some)
    assert (probes.inputs == whole.inputs[some]).all()
    assert (probes.labels == whole.labels[some]).all()


@both
@every
def test_planting_changes_no_probe(kind, family):
    arrays = DATA[kind]
    canary = _canary(family, arrays)
    inputs, labels = _rows(family, arrays, canary)
    planted = dataclasses.replace(
        arrays,
        train_inputs=np.concatenate([arrays.train_inputs, inputs]),
        train_labels=np.concatenate([arrays.train_labels, labels]),
    )
    secrets = np.arange(family.n_secrets(arrays))
    before, after = (family.probes(a, canary, secrets) for a in (arrays, planted))
    assert (before.inputs == after.inputs).all()
    assert (before.labels == after.labels).all()


@both
@every
def test_the_public_part_does_not_tell_the_secret(kind, family):
    arrays = DATA[kind]
    one = _canary(family, arrays)
    other = dataclasses.replace(one, secret=(one.secret + 1) % family.n_secrets(arrays))
    secrets = np.arange(family.n_secrets(arrays))
    a, b = (family.probes(arrays, canary, secrets) for canary in (one, other))
    assert (a.inputs == b.inputs).all()
    assert (a.labels == b.labels).all()
    assert family.words(arrays, one) != family.words(arrays, other)
    assert "\n" not in family.words(arrays, one)


@every
def test_another_number_or_seed_is_another_canary(family):
    canary = _canary(family, IMAGES)
    secrets = np.arange(family.n_secrets(IMAGES))
    inputs = family.probes(IMAGES, canary, secrets).inputs
    for change in ({"number": 4}, {"seed": 12}):
        other = dataclasses.replace(canary, **change)
        assert (family.probes(IMAGES, other, secrets).inputs != inputs).any()


@every
def test_secrets_are_drawn_from_all_of_them(family):
    k = family.n_secrets(IMAGES)
    drawn = Canaries(family=family, insertions=(1,), per_level=60 * k).draw(
        IMAGES, n_clients=4, seed=0
    )
    counts = Counter(canary.secret for canary in drawn)
    assert set(counts) == set(range(k))
    expected = np.sqrt(60)
    assert all(abs(n - 60) < 6 * expected for n in counts.values())
    assert {c.holders for c in drawn} == {(0,), (1,), (2,), (3,)}


def test_a_natural_input_is_one_of_the_test_set():
    canary = _canary(SecretLabel(look=Look.NATURAL), IMAGES)
    (first, *_), _ = _rows(SecretLabel(look=Look.NATURAL), IMAGES, canary)
    assert (IMAGES.test_inputs == first).all(axis=(1, 2, 3)).any()


def test_columns_of_a_table_are_in_range_but_jointly_odd():
    rng = np.random.default_rng(2)
    drawn = np.stack([random_input(TABLE.test_inputs, rng=rng) for _ in range(200)])
    for column in range(6):
        assert np.isin(drawn[:, column], TABLE.test_inputs[:, column]).all()
    assert (TABLE.test_inputs[:, 0] == TABLE.test_inputs[:, 1]).all()
    assert (drawn[:, 0] == drawn[:, 1]).mean() < 0.1


def test_tiles_are_flat_inside_and_the_same_in_all_channels():
    inputs = np.zeros((2, 3, 28, 28), dtype=np.uint8)
    image = random_tiles(inputs, cells=7, rng=np.random.default_rng(0))
    assert image.shape == (3, 28, 28)
    assert set(np.unique(image)) == {0, 255}
    blocks = image.reshape(3, 7, 4, 7, 4)
    assert (blocks == blocks[:1, :, :1, :, :1]).all()


@pytest.mark.parametrize("family", [SecretLabel(), Pattern()])
def test_a_text_is_refused_with_the_remedy(family):
    tokens = np.zeros((5, 4), dtype=np.int16)
    text = Arrays(
        train_inputs=tokens,
        train_labels=tokens.astype(np.int64),
        test_inputs=tokens,
        test_labels=tokens.astype(np.int64),
        n_classes=30,
    )
    with pytest.raises(ConfigError, match="use the family 'code'"):
        family.n_secrets(text)
