"""Registration by decorator, building from plain data, and messages that name the path."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from annotated_types import Ge

from fedkd import registry as registry_module
from fedkd.errors import ConfigError
from fedkd.registry import Registry, build, describe, did_you_mean, families, fields_of, slot_of


class Sound(ABC):
    """A base."""

    @abstractmethod
    def play(self) -> str:
        """Make it."""


@dataclass(frozen=True)
class Beep(Sound):
    """A beep."""

    times: Annotated[int, Ge(1)] = 2
    pitch: float | None = None
    soft: bool = False

    def play(self) -> str:
        return "beep" * self.times


@dataclass(frozen=True)
class Echo(Sound):
    """Another sound again."""

    of: Sound = field(default_factory=Beep)

    def __post_init__(self) -> None:
        if isinstance(self.of, Echo):
            raise ConfigError("of: an echo of an echo; name another sound")

    def play(self) -> str:
        return self.of.play() * 2


@dataclass(frozen=True)
class Room:
    """A plain nested config."""

    sound: Sound | None = None
    size: Annotated[int, Ge(1)] = 3


@pytest.fixture
def sounds(monkeypatch, tmp_path):
    """A family with an empty package, known only during the test."""
    monkeypatch.setattr(registry_module, "_FAMILIES", dict(registry_module._FAMILIES))
    package = tmp_path / "sounds_for_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("sound", Sound, package="sounds_for_tests")
    registry.register("beep")(Beep)
    registry.register("echo")(Echo)
    yield registry
    for name in [n for n in sys.modules if n.startswith("sounds_for_tests")]:
        del sys.modules[name]


def test_a_file_in_the_package_is_all_it_takes(sounds, tmp_path):
    (tmp_path / "sounds_for_tests" / "hum.py").write_text(
        "from dataclasses import dataclass\n"
        "from fedkd.registry import families\n"
        "registry = families()['sound']\n"
        "@registry.register('hum')\n"
        "@dataclass(frozen=True)\n"
        "class Hum(registry.base):\n"
        "    def play(self): return 'hum'\n"
    )
    assert sounds.names() == ["beep", "echo", "hum"]
    assert build(Sound, "hum", path="x").play() == "hum"
    assert families()["sound"] is sounds


def test_names_and_classes(sounds):
    assert sounds.get("beep") is Beep
    assert sounds.name_of(Echo()) == "echo"
    with pytest.raises(ConfigError) as error:
        sounds.get("bep")
    assert str(error.value) == "sound: no sound called 'bep'; did you mean 'beep'?"
    with pytest.raises(ConfigError) as error:
        sounds.get("zzz", path="room.sound")
    assert str(error.value) == "room.sound: no sound called 'zzz'; known: beep, echo"


def test_one_name_belongs_to_one_module(sounds):
    other = type("Other", (Sound,), {"__module__": "elsewhere", "play": lambda self: ""})
    with pytest.raises(ConfigError, match="'beep' is registered twice"):
        sounds.register("beep")(other)
    assert sounds.register("beep")(Beep) is Beep  # a module imported again


def test_build_and_describe_are_inverse(sounds):
    for sound in (Beep(), Beep(times=5, pitch=0.5, soft=True), Echo(of=Beep(times=1))):
        assert build(Sound, describe(sound), path="x") == sound
    room = Room(sound=Echo(), size=9)
    assert describe(room) == {
        "sound": {
            "name": "echo",
            "of": {"name": "beep", "times": 2, "pitch": None, "soft": False},
        },
        "size": 9,
    }
    assert build(Room, describe(room), path="") == room
    assert build(Room, {"sound": None}, path="") == Room()


@dataclass(frozen=True)
class Choir:
    """Many sounds, and plain numbers."""

    sounds: tuple[Sound, ...] = ()
    pitches: tuple[int, ...] = ()


def test_tuples_of_components_are_lists_of_them(sounds):
    choir = Choir(sounds=(Beep(times=3), Echo()), pitches=(1, 2))
    printed = describe(choir)
    assert printed["sounds"][0] == {"name": "beep", "times": 3, "pitch": None, "soft": False}
    assert printed["pitches"] == [1, 2]
    assert build(Choir, printed, path="") == choir
    assert build(Choir, {"sounds": ["beep", {"name": "echo"}]}, path="") == Choir(
        sounds=(Beep(), Echo())
    )
    assert build(Choir, describe(Choir()), path="") == Choir()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("beep", "x.sounds: 'beep' is not a list; write ['beep']"),
        ({"name": "beep"}, "x.sounds: {'name': 'beep'} is not a list"),
        (["beep", "bep"], "x.sounds[1]: no sound called 'bep'; did you mean 'beep'?"),
        ([{"name": "beep", "times": 0}], "x.sounds[0].times: 0 is refused"),
        ([None], "x.sounds[0]: None is neither a name nor a mapping"),
    ],
)
def test_messages_name_the_place_in_a_list(sounds, value, line):
    with pytest.raises(ConfigError) as error:
        build(Choir, {"sounds": value}, path="x")
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("kind", "value", "line"),
    [
        (Sound, 3, "x: 3 is neither a name nor a mapping with a name"),
        (Sound, {"times": 3}, "x: {'times': 3} is neither a name nor a mapping with a name"),
        (Sound, None, "x: None is neither a name nor a mapping with a name"),
        (Sound, {"name": "beep", "tims": 3}, "x.tims: unknown key 'tims'; did you mean 'times'?"),
        (
            Sound,
            {"name": "echo", "of": {"name": "beep", "times": 0}},
            "x.of.times: 0 is refused: input should be greater than or equal to 1",
        ),
        (Sound, {"name": "beep", "times": True}, "x.times: True is a truth value"),
        (Sound, {"name": "echo", "of": "echo"}, "x: of: an echo of an echo; name another sound"),
        (Room, 3, "x: 3 is not a mapping of room keys"),
        (Room, {"seize": 3}, "x.seize: unknown key 'seize'; did you mean 'size'?"),
    ],
)
def test_messages_name_path_value_and_remedy(sounds, kind, value, line):
    with pytest.raises(ConfigError) as error:
        build(kind, value, path="x")
    assert str(error.value).startswith(line)


def test_truth_values_are_taken_where_asked_for(sounds):
    assert build(Sound, {"name": "beep", "soft": True}, path="x") == Beep(soft=True)


def test_suggestions():
    assert did_you_mean("quantle", ["quantile", "score"]) == "; did you mean 'quantile'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("x", []) == "; known: none"


def test_annotations_are_understood():
    assert slot_of(Sound | None) == (Sound, True)
    assert slot_of(Sound) == (Sound, False)
    assert slot_of(int | str | None) == (int | str | None, True)
    assert set(fields_of(Beep)) == {"times", "pitch", "soft"}
