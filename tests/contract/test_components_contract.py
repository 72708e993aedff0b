"""What every component of every family promises: it is its own printable, rebuildable config."""

from __future__ import annotations

import dataclasses
import json

import pytest

import fedkd.audit.attacks.base
import fedkd.scenario  # imports every family that a scenario has a slot of
from fedkd.errors import ConfigError
from fedkd.registry import build, describe, families

assert fedkd.scenario.Scenario
assert fedkd.audit.attacks.base.Attack
COMPONENTS = [(family, name) for family, r in families().items() for name in r.names()]
EXPECTED_FAMILIES = {
    "adversary client",
    "aggregator",
    "attack",
    "canary family",
    "data set",
    "device",
    "distiller",
    "feature space",
    "filter",
    "method",
    "model",
    "partitioner",
    "protector",
    "proxy source",
    "scorer",
}
every_component = pytest.mark.parametrize(("family", "name"), COMPONENTS)


def _class(family, name):
    return families()[family].get(name)


def test_no_family_is_missing_or_empty():
    assert set(families()) >= EXPECTED_FAMILIES
    assert {family for family, _ in COMPONENTS} == set(families())


@every_component
def test_it_is_a_frozen_dataclass_and_needs_no_argument(family, name):
    cls = _class(family, name)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    component = cls()
    assert isinstance(component, families()[family].base)
    with pytest.raises(dataclasses.FrozenInstanceError):
        component.name_of_nothing = 1


@every_component
def test_it_equals_its_rebuild_even_after_a_trip_through_json(family, name):
    base, component = families()[family].base, _class(family, name)()
    printed = describe(component)
    assert printed["name"] == name
    assert build(base, printed, path="x") == component
    assert build(base, json.loads(json.dumps(printed)), path="x") == component
    assert build(base, name, path="x") == component


@every_component
def test_it_is_hashable_and_equal_configs_hash_alike(family, name):
    cls = _class(family, name)
    assert hash(cls()) == hash(cls())
    assert len({cls(), cls()}) == 1


@every_component
def test_it_says_what_it_is(family, name):
    cls = _class(family, name)
    text = cls.__dict__["__doc__"]
    assert text
    assert not text.startswith(f"{cls.__name__}("), "dataclass made this docstring up"
    assert len(text.strip().splitlines()[0]) > 10


@every_component
def test_an_unknown_field_is_refused_with_the_nearest_one(family, name):
    base, fields = (
        families()[family].base,
        [f.name for f in dataclasses.fields(_class(family, name))],
    )
    meant = fields[-1] if fields else ""
    typo = meant + meant[-1:] if meant else "wrong"
    assert typo not in fields
    with pytest.raises(ConfigError) as error:
        build(base, {"name": name, typo: 1}, path="x")
    hint = f"did you mean {meant!r}?" if meant else "known: none"
    assert str(error.value) == f"x.{typo}: unknown key {typo!r}; {hint}"


@every_component
def test_its_file_is_called_like_it_and_nobody_derives_from_it(family, name):
    cls, registry = _class(family, name), families()[family]
    assert cls.__module__ == f"{registry.package}.{name}"
    assert cls.__subclasses__() == []


@pytest.mark.parametrize("family", sorted(families()))
def test_an_unknown_name_is_refused_with_the_nearest_one(family):
    registry = families()[family]
    meant = registry.names()[0]
    with pytest.raises(ConfigError) as error:
        build(registry.base, meant + "x", path="here")
    assert str(error.value) == (
        f"here: no {family} called {meant + 'x'!r}; did you mean {meant!r}?"
    )
