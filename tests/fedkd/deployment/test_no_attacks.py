"""A server of real clients refuses a scenario in which they attack, before anything starts."""

from __future__ import annotations

import pytest

from fedkd.compose import compose
from fedkd.deployment.server import Options, up
from fedkd.errors import ConfigError


def test_a_server_refuses_an_attack(tmp_path):
    scenario = compose(["data=digits", "models=mlp", "method=fedmd", "attack=free_rider"])
    options = Options(
        certs=tmp_path / "certs", state=tmp_path / "state", out=tmp_path, host="", port=1, wait_s=0
    )
    with pytest.raises(ConfigError, match=r"'free_rider' makes clients of a simulation lie.*null"):
        up(scenario, options, print)
    assert list(tmp_path.iterdir()) == []
