"""The handshake: both sides say which fedkd and which scenario they run, and must agree."""

from __future__ import annotations

import importlib.metadata

from fedkd.scenario import Scenario, scenario_hash
from fedkd.transport.messages import Hello


class OtherVersion(Exception):
    """Client and server run different versions of fedkd."""


class OtherScenario(Exception):
    """Client and server do not mean the same scenario."""


def greeting(scenario: Scenario, *, simulated: bool = False) -> Hello:
    """Return what this side says of itself; ``simulated`` clients let themselves be measured."""
    version = importlib.metadata.version("fedkd")
    return Hello(version=version, scenario=scenario_hash(scenario), simulated=simulated)


def agree(mine: Hello, theirs: Hello | None) -> None:
    """Compare two greetings; None is that of a fedkd which has none yet.

    Raises:
        OtherVersion: the versions differ.
        OtherScenario: the scenario hashes differ.
    """
    if theirs is None or theirs.version != mine.version:
        found = "an older one" if theirs is None else repr(theirs.version)
        raise OtherVersion(f"fedkd {found} there, {mine.version!r} here; install the same version")
    if theirs.scenario != mine.scenario:
        raise OtherScenario(f"scenario {theirs.scenario!r} there, {mine.scenario!r} here")
