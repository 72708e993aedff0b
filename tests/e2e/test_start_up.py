"""A run imports what it needs and no more: every import is waited for before the first round."""

from __future__ import annotations

import pytest

HEAVY = {"pandas", "matplotlib", "sklearn", "scipy", "ray", "opacus", "torch._dynamo"}
"""Each takes a tenth of a second or much more to import."""


@pytest.mark.parametrize("method", ["fedavg", "fedmd"])
def test_a_simulation_imports_nothing_heavy_that_it_does_not_use(method, tmp_path, imported_by):
    words = ["scenario=iid", "clients=2", "rounds=1", "models=mlp", f"method={method}"]
    _, modules = imported_by("simulate", *words, "--out", str(tmp_path), "--quiet")
    assert HEAVY & modules == set()
