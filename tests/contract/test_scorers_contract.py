"""What every scorer promises: a likelihood a row, from scores alone unless it says otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.protectors.base import Context
from fedkd.scorers.base import Scorer, scorers
from fedkd.scorers.detector import Detector
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space

N_ROWS, N_CLASSES = 40, 5
UNFINISHED = {"detector": Detector(classes=(1, 3))}
"""Scorers that have to be told something first, with it."""
SCORERS = {name: UNFINISHED.get(name, scorers.get(name)()) for name in scorers.names()}
every_scorer = pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)


def _knowledge(scale: float = 4.0) -> Knowledge:
    rng = torch.Generator().manual_seed(3)
    rows = torch.arange(1, N_ROWS, 2)
    return Knowledge(
        rows=rows,
        scores=scale * torch.randn(len(rows), N_CLASSES, generator=rng),
        weights=torch.ones(len(rows)),
        space=Space.LOGITS,
    )


def _consensus(rows: torch.Tensor) -> Consensus:
    rng = torch.Generator().manual_seed(4)
    return Consensus(
        rows=rows,
        scores=torch.randn(len(rows), N_CLASSES, generator=rng).softmax(dim=1),
        space=Space.PROBS,
        temperature=3.0,
        keepers=None,
    )


def _context(consensus: Consensus | None) -> Context:
    proxy = ProxySet(
        inputs=torch.zeros(N_ROWS, 4),
        ids=torch.arange(N_ROWS),
        owner=None,
        source=ProxySource.EXTERNAL,
    )
    near = torch.linspace(0, 1, N_ROWS)
    return Context(proxy=proxy, consensus=consensus, temperature=3.0, closeness=lambda: near)


logits = _consensus(torch.arange(N_ROWS))
CONSENSUSES = {
    "none": None,
    "empty": _consensus(torch.arange(0)),
    "every third row": _consensus(torch.arange(0, N_ROWS, 3)),
    "other rows only": _consensus(torch.arange(0, N_ROWS, 2)),
    "one common row": _consensus(torch.tensor([0, 7])),
    "all rows": _consensus(torch.arange(N_ROWS)),
    "in logits": replace(logits, scores=logits.scores.log(), space=Space.LOGITS, temperature=1.0),
    "told": replace(logits, row_temperatures=torch.linspace(1, 8, N_ROWS)),
    "without doubt": replace(logits, scores=torch.eye(N_CLASSES).repeat(8, 1)),
}
every_consensus = pytest.mark.parametrize("consensus", CONSENSUSES.values(), ids=CONSENSUSES)


@every_scorer
@every_consensus
@pytest.mark.parametrize("scale", [0.0, 4.0, 1e4])
def test_it_gives_each_row_a_number_between_zero_and_one(scorer, consensus, scale):
    likelihood = scorer.likelihood(_knowledge(scale), _context(consensus))
    assert likelihood.shape == (N_ROWS // 2,)
    assert likelihood.dtype == torch.float32
    assert bool(((likelihood >= 0) & (likelihood <= 1)).all())


@every_scorer
@every_consensus
def test_it_has_an_answer_about_no_row(scorer, consensus):
    none = replace(_knowledge(), rows=torch.arange(0), scores=torch.zeros(0, N_CLASSES))
    assert scorer.likelihood(none, _context(consensus)).shape == (0,)


@every_scorer
def test_it_tells_rows_apart_and_leaves_them_alone(scorer):
    given = _knowledge()
    likelihood = scorer.likelihood(given, _context(CONSENSUSES["all rows"]))
    assert len(likelihood.unique()) > 5
    assert torch.equal(given.scores, _knowledge().scores)


@every_scorer
def test_it_draws_nothing_and_repeats_itself(scorer, global_seed):
    found = []
    for seed in (0, 1):
        with global_seed(seed):
            before = torch.get_rng_state()
            found.append(scorer.likelihood(_knowledge(), _context(CONSENSUSES["all rows"])))
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


class Touched(Exception):
    """Private examples were asked for."""


@every_scorer
def test_it_reads_private_examples_only_where_it_says_so(scorer):
    def touch():
        raise Touched

    context = replace(_context(CONSENSUSES["all rows"]), closeness=touch)
    if scorer.reads_private:
        with pytest.raises(Touched):
            scorer.likelihood(_knowledge(), context)
        with pytest.raises(ConfigError, match="no access"):
            scorer.likelihood(_knowledge(), replace(context, closeness=None))
    else:
        scorer.likelihood(_knowledge(), context)


def test_exactly_one_scorer_shipped_reads_private_examples():
    assert [name for name, scorer in SCORERS.items() if scorer.reads_private] == ["density"]


@pytest.mark.parametrize("name", scorers.names())
def test_one_that_must_be_told_something_says_so_before_a_run(name):
    scorer: Scorer = scorers.get(name)()
    if name not in UNFINISHED:
        scorer.check()
        return
    for use in (scorer.check, lambda: scorer.likelihood(_knowledge(), _context(None))):
        with pytest.raises(ConfigError, match="name the private ones"):
            use()
    UNFINISHED[name].check()
