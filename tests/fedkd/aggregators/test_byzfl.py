"""Robust rules against byzfl's, where both mean the same: all uploads whole, all weights one.

byzfl's package imports torchvision, whose published wheels do not load beside a CPU build of torch;
its rules need NumPy and torch only, so they are imported past the package.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.geometric_median import GeometricMedian
from fedkd.aggregators.median import Median
from fedkd.aggregators.multikrum import MultiKrum
from fedkd.aggregators.trimmed_mean import TrimmedMean
from fedkd.types import Knowledge, Space

N_ROWS, N_CLASSES = 12, 5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def byzfl() -> Iterator[Any]:
    """Return byzfl's rules: classes that take an array of one flat upload a line."""
    spec = importlib.util.find_spec("byzfl")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("byzfl is not installed: pip install --no-deps byzfl")
    package = ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["byzfl"] = package
    yield importlib.import_module("byzfl.aggregators.aggregators")
    for name in [name for name in sys.modules if name.split(".")[0] == "byzfl"]:
        del sys.modules[name]


def _said(n: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    return rng.dirichlet(np.ones(N_CLASSES), size=(n, N_ROWS)).astype(np.float32)


def _ours(rule: Aggregator, said: np.ndarray) -> np.ndarray:
    uploads = [
        Knowledge(
            rows=torch.arange(N_ROWS),
            scores=torch.from_numpy(scores),
            weights=torch.ones(N_ROWS),
            space=Space.PROBS,
            temperature=2.0,
        )
        for scores in said
    ]
    return rule.aggregate(uploads, n_rows=N_ROWS, rng=torch.Generator()).scores.double().numpy()


def _whole(rule: Any, said: np.ndarray) -> np.ndarray:
    return rule(said.reshape(len(said), -1).astype(np.float64)).reshape(N_ROWS, N_CLASSES)


def _scaled(rows: np.ndarray) -> np.ndarray:
    return rows / rows.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "f", "share"), [(7, 2, 0.28), (9, 2, 0.2), (10, 3, 0.3)])
def test_rules_are_byzfls(byzfl, n: int, f: int, share: float):
    said, tight = _said(n), {"atol": 1e-7, "rtol": 0}
    np.testing.assert_allclose(
        _ours(Median(), said), _scaled(_whole(byzfl.Median(), said)), **tight
    )
    trimmed = _scaled(_whole(byzfl.TrMean(f=f), said))
    np.testing.assert_allclose(_ours(TrimmedMean(share=share), said), trimmed, **tight)
    krum = _whole(byzfl.MultiKrum(f=f), said)
    np.testing.assert_allclose(_ours(MultiKrum(share=share), said), krum, **tight)


@pytest.mark.parametrize("n", [7, 10])
def test_the_geometric_median_is_byzfls_row_by_row(byzfl, n: int):
    said = _said(n)
    rule = byzfl.GeometricMedian(nu=1e-8, T=200)
    rows = [rule(said[:, row].astype(np.float64)) for row in range(N_ROWS)]
    found = _ours(GeometricMedian(iterations=1000), said)
    np.testing.assert_allclose(found, np.stack(rows), atol=1e-5, rtol=0)
