"""Swing-style protection: its order, its temperatures, and what its noise is worth."""

from __future__ import annotations

import math
from dataclasses import fields
from statistics import NormalDist

import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.privacy.events import Gaussian, Laplace, Uncounted
from fedkd.protectors.base import Context
from fedkd.protectors.chain import Chain
from fedkd.protectors.gaussian import GaussianNoise
from fedkd.protectors.noise import Noise
from fedkd.protectors.quantize import Quantize
from fedkd.protectors.softening import Noisy, Soft, Tempered, tempered
from fedkd.protectors.swing import NoiseLaw, ServerTemperature, Swing
from fedkd.scorers.density import Density
from fedkd.scorers.detector import Detector
from fedkd.simplex import moved_mass
from fedkd.types import Knowledge, ProxySet, ProxySource, Space

TOLD = ServerTemperature.TOLD


def _knowledge(logits) -> Knowledge:
    scores = torch.tensor(logits)
    return Knowledge(
        rows=torch.arange(len(scores)),
        scores=scores,
        weights=torch.ones(len(scores)),
        space=Space.LOGITS,
    )


def _context(n: int, temperature: float = 1.0) -> Context:
    proxy = ProxySet(
        inputs=torch.zeros(n, 2), ids=torch.arange(n), owner=None, source=ProxySource.EXTERNAL
    )
    return Context(proxy=proxy, consensus=None, temperature=temperature)


def _protect(swing: Swing, logits, *, temperature: float = 1.0) -> Knowledge:
    rng = torch.Generator().manual_seed(0)
    return swing.protect(_knowledge(logits), _context(len(logits), temperature), rng=rng)


def _steps(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")} - {
        field.name for field in fields(kind)
    }


def test_each_step_leads_to_the_next_one_only():
    assert _steps(Tempered) == {"softmax"}
    assert _steps(Soft) == {"plus"}
    assert _steps(Noisy) == {"projected"}
    soft = tempered(torch.zeros(1, 2), torch.ones(1)).softmax()
    assert isinstance(soft, Soft)
    assert isinstance(soft.plus(torch.zeros(1, 2)), Noisy)
    assert isinstance(soft.plus(torch.zeros(1, 2)).projected(), torch.Tensor)
    for out_of_order in (soft, soft.plus(torch.zeros(1, 2))):
        with pytest.raises(TypeError):
            tempered(out_of_order, torch.ones(1))


def test_only_rows_with_noise_are_moved_to_the_simplex():
    soft = Soft(probabilities=torch.tensor([[0.7, 0.3], [0.7, 0.3]]))
    found = soft.plus(torch.tensor([[0.0, 0.0], [0.2, 0.0]])).projected()
    assert torch.equal(found[0], soft.probabilities[0])
    torch.testing.assert_close(found[1], torch.tensor([0.8, 0.2]))


def test_the_trial_by_hand():
    """T = 1 + (8 - 1) pi with pi the mass on the private class: 3/4 and 1/4."""
    swing = Swing(scorer=Detector(classes=(0,)), noise_scale=0.0, server_temperature=TOLD)
    found = _protect(swing, [[math.log(3), 0.0], [0.0, math.log(3)]])
    temperatures = [1 + 7 * 0.75, 1 + 7 * 0.25]
    torch.testing.assert_close(found.row_temperatures, torch.tensor(temperatures))
    first, second = (3 ** (1 / t) / (1 + 3 ** (1 / t)) for t in temperatures)
    expected = torch.tensor([[first, 1 - first], [1 - second, second]])
    torch.testing.assert_close(found.scores, expected)


def test_the_exponent_bends_the_way_between_the_two_temperatures():
    logits = [[math.log(3), 0.0]]
    for exponent in (0.5, 1.0, 2.0):
        swing = Swing(
            scorer=Detector(classes=(0,)),
            temperature_min=2.0,
            temperature_max=10.0,
            exponent=exponent,
            server_temperature=TOLD,
        )
        told = _protect(swing, logits, temperature=3.0)
        assert float(told.row_temperatures) == pytest.approx(2 + 8 * 0.75**exponent)
        assert swing.row_temperatures(temperature=3.0) == (2.0, 10.0)
        assert told.temperature == 3.0


def test_agreed_tells_no_temperature_and_the_same_probabilities():
    logits = [[math.log(3), 0.0]]
    agreed, told = _protect(Swing(), logits), _protect(Swing(server_temperature=TOLD), logits)
    assert agreed.row_temperatures is None
    assert Swing().row_temperatures(temperature=1.0) is None
    assert told.row_temperatures is not None
    assert torch.equal(agreed.scores, told.scores)


def test_a_row_that_gives_nothing_away_is_left_alone_by_noise_in_proportion():
    scorer = Detector(classes=(0,))
    swing = Swing(scorer=scorer, noise_scale=0.5, noise_law=NoiseLaw.PROPORTIONAL)
    found = _protect(swing, [[-1e9, 0.0, 1.0], [0.0, 0.0, 1.0]])
    plain = torch.tensor([[-1e9, 0.0, 1.0], [0.0, 0.0, 1.0]]).softmax(dim=1)
    assert torch.equal(found.scores[0], plain[0])
    assert not torch.allclose(found.scores[1], plain[1], atol=0.05)


@pytest.mark.parametrize("n_rows", [1, 50, 6000])
def test_constant_noise_is_priced_by_how_far_rows_of_probabilities_can_lie_apart(n_rows):
    one = torch.eye(10)[torch.zeros(n_rows, dtype=torch.int64)]
    other = torch.eye(10)[torch.ones(n_rows, dtype=torch.int64)]
    gaussian = Swing(noise_scale=0.3).event(n_rows=n_rows)
    assert isinstance(gaussian, Gaussian)
    farthest = float((one - other).double().norm())
    assert gaussian.noise_multiplier == pytest.approx(0.3 / farthest)
    assert gaussian.count == 1
    laplace = Swing(noise_scale=0.3, noise=Noise.LAPLACE).event(n_rows=n_rows)
    assert isinstance(laplace, Laplace)
    a_row = float((one - other)[0].abs().sum())
    assert (laplace.noise_multiplier, laplace.count) == (pytest.approx(0.3 / a_row), n_rows)


@pytest.mark.parametrize(
    ("swing", "reason"),
    [
        (Swing(noise_scale=0.0), "temperature without noise"),
        (Swing(noise_law=NoiseLaw.GROWING), "scale of the noise is computed"),
        (Swing(noise_law=NoiseLaw.PROPORTIONAL), "scale of the noise is computed"),
        (Swing(scorer=Density()), "private examples"),
        (Swing(server_temperature=TOLD), "sent beside them"),
    ],
)
def test_what_depends_on_data_is_never_counted(swing, reason):
    event = swing.event(n_rows=100)
    assert isinstance(event, Uncounted)
    assert reason in event.reason


def test_an_upside_down_range_is_refused_where_it_is_written():
    with pytest.raises(ConfigError, match="temperature_max: 8 is below the minimum 9; give 9"):
        Swing(temperature_min=9.0)
    assert Swing(temperature_min=8.0).row_temperatures(temperature=3.0) is None


@pytest.mark.parametrize("scale", [0.05, 0.3])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_projected_mass_is_that_of_normal_noise_in_closed_form(scale, n_classes):
    # Shifted to sum to one, a class with probability q is normal with deviation
    # s = scale * sqrt(1 - 1 / classes), and its mean part below zero is s phi(q/s) - q Phi(-q/s).
    law, s = NormalDist(), scale * math.sqrt(1 - 1 / n_classes)

    def below(q: float) -> float:
        return s * law.pdf(q / s) - q * law.cdf(-q / s)

    least, most = Swing(noise_scale=scale).projected_mass(n_classes=n_classes)
    even, sure = n_classes * below(1 / n_classes), below(1.0) + (n_classes - 1) * below(0.0)
    assert least == pytest.approx(even, rel=0.05, abs=3e-4)
    assert most == pytest.approx(sure, rel=0.05)


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("law", NoiseLaw)
def test_projected_mass_bounds_what_any_row_loses_on_average(noise, law):
    swing = Swing(noise_scale=0.2, noise=noise, noise_law=law)
    least, most = swing.projected_mass(n_classes=5)
    assert 0 <= least < most
    rng = torch.Generator().manual_seed(1)
    for row in torch.randn(6, 5, generator=rng).mul(3).softmax(dim=1):
        likelihood = torch.rand(1, generator=rng)
        noisy = row + swing._scales(likelihood) * noise.like(torch.zeros(20_000, 5), rng=rng)
        assert least * 0.97 <= float(moved_mass(noisy).mean()) <= most * 1.03


def test_what_projects_nothing_says_so_and_a_chain_says_what_its_part_does():
    for quiet in (Swing(noise_scale=0.0), GaussianNoise(), Quantize(), Chain(parts=(Quantize(),))):
        assert quiet.projected_mass(n_classes=10) is None
    swing = Swing(noise_scale=0.1)
    chained = Chain(parts=(swing, Quantize())).projected_mass(n_classes=10)
    assert chained == swing.projected_mass(n_classes=10)
