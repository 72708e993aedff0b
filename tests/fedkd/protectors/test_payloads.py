"""Fewer classes, fewer bits, several parts: what the reader gets is what was meant."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.compose import compose
from fedkd.errors import ConfigError
from fedkd.privacy.events import Gaussian, Uncounted
from fedkd.protectors.base import Context, dense
from fedkd.protectors.chain import Chain
from fedkd.protectors.gaussian import GaussianNoise
from fedkd.protectors.none import NoProtection
from fedkd.protectors.quantize import Quantize, apportion
from fedkd.protectors.swing import Swing
from fedkd.protectors.topk_payload import TopKPayload
from fedkd.registry import describe
from fedkd.scenario import from_json, to_json
from fedkd.scorers.density import Density
from fedkd.types import LOGIT_LIMIT, Knowledge, ProxySet, ProxySource, Space


def _knowledge(scores: torch.Tensor, space: Space = Space.PROBS) -> Knowledge:
    return Knowledge(
        rows=torch.arange(len(scores)),
        scores=scores,
        weights=torch.ones(len(scores)),
        space=space,
    )


def _protect(protector, scores, space: Space = Space.PROBS) -> Knowledge:
    proxy = ProxySet(
        inputs=torch.zeros(len(scores), 1),
        ids=torch.arange(len(scores)),
        owner=None,
        source=ProxySource.EXTERNAL,
    )
    context = Context(proxy=proxy, consensus=None, temperature=2.0)
    rng = torch.Generator().manual_seed(0)
    return protector.protect(_knowledge(scores, space), context, rng=rng)


ROWS = torch.tensor([[0.1, 0.5, 0.05, 0.3, 0.05], [0.2, 0.2, 0.3, 0.2, 0.1]])


def test_the_rest_is_spread_over_the_classes_that_are_not_named():
    sent = _protect(TopKPayload(k=2), ROWS)
    assert sent.classes[0].tolist() == [1, 3]
    read = dense(sent, n_classes=5)
    expected = torch.tensor([0.2 / 3, 0.5, 0.2 / 3, 0.3, 0.2 / 3])
    torch.testing.assert_close(read.scores[0], expected)
    assert read.classes is None


def test_logits_are_softened_as_plain_distillation_would():
    sent = _protect(TopKPayload(k=9), 6 * ROWS, Space.LOGITS)
    assert (sent.space, sent.temperature) == (Space.PROBS, 2.0)
    read = dense(sent, n_classes=5)
    assert torch.equal(read.scores, torch.softmax(6 * ROWS / 2, dim=1))


def test_one_bit_is_the_one_hot_vector_of_the_largest():
    sent = _protect(Quantize(bits=1), ROWS)
    assert torch.equal(sent.scores, torch.eye(5)[[1, 2]])
    assert sent.bits == 1


def test_largest_remainders_by_hand():
    # 3 units: .3, 1.5, .15, .9, .15 -> whole 0 1 0 0 0, the two left go to .9 and .5.
    assert apportion(ROWS[:1], 3).tolist() == [[0, 2, 0, 1, 0]]
    # 7 units: 1.4, 1.4, 2.1, 1.4, .7 -> whole 1 1 2 1 0, of the two left one goes to .7 and,
    # among equals, one to the lowest class.
    assert apportion(ROWS[1:].double(), 7).tolist() == [[2, 1, 2, 1, 1]]


@given(bits=st.integers(1, 16), classes=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_units_add_up_exactly_and_are_never_more_than_one_away(bits, classes, seed):
    rng = torch.Generator().manual_seed(seed)
    shares = (5 * torch.randn(6, classes, generator=rng)).softmax(dim=1)
    total = 2**bits - 1
    units = apportion(shares, total)
    assert units.sum(dim=1).tolist() == [total] * 6
    assert bool((units >= 0).all())
    assert bool(((units - total * shares.double()).abs() < 1 + 1e-6).all())
    order = shares.argsort(dim=1, descending=True)
    assert bool((units.gather(1, order).diff(dim=1) <= 0).all())


def test_few_classes_in_few_bits_leave_the_rest_to_be_spread():
    # The shares of the first row are .5, .3 and a rest of .2; in 7 units 3.5, 2.1, 1.4 -> 4, 2, 1.
    sent = _protect(Chain(parts=(TopKPayload(k=2), Quantize(bits=3))), ROWS)
    torch.testing.assert_close(sent.scores[0], torch.tensor([4 / 7, 2 / 7]))
    read = dense(sent, n_classes=5).scores
    torch.testing.assert_close(read[0], torch.tensor([1 / 21, 4 / 7, 1 / 21, 2 / 7, 1 / 21]))
    assert read.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_bits_first_keeps_their_multiples():
    sent = _protect(Chain(parts=(Quantize(bits=3), TopKPayload(k=2), TopKPayload(k=1))), ROWS[:1])
    assert (sent.bits, sent.classes.tolist()) == (3, [[1]])
    torch.testing.assert_close(sent.scores * 7, (sent.scores * 7).round())


def test_clipping_centers_and_shortens_rows_that_are_too_long():
    logits = torch.tensor([[13.0, 7.0, 10.0], [10.5, 9.5, 10.0]])
    found = _protect(GaussianNoise(clip_norm=2.0, noise_multiplier=1e-9), logits, Space.LOGITS)
    half = 2 / 2**0.5
    expected = torch.tensor([[half, -half, 0.0], [0.5, -0.5, 0.0]])
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-5)
    assert found.space is Space.LOGITS


def test_noise_never_makes_a_logit_the_server_would_refuse():
    found = _protect(GaussianNoise(noise_multiplier=1e6), torch.zeros(50, 5), Space.LOGITS)
    assert float(found.scores.abs().max()) == LOGIT_LIMIT


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -3e38])
@pytest.mark.parametrize("protector", [GaussianNoise(noise_multiplier=1.0), Swing()])
def test_what_is_not_finite_or_nearly_so_does_not_get_past_the_noise(protector, odd):
    logits = torch.tensor([[0.0, odd, 1.0], [odd, odd, odd], [3e38, odd, 3e38]])
    assert bool(torch.isfinite(_protect(protector, logits, Space.LOGITS).scores).all())


def test_noise_that_is_not_worked_out_is_refused_with_the_remedy():
    unknown = GaussianNoise()
    for use in (
        lambda: unknown.event(n_rows=10),
        lambda: _protect(unknown, ROWS, Space.LOGITS),
    ):
        with pytest.raises(ConfigError, match=r"noise_multiplier: null .* privacy.target_epsilon"):
            use()


def test_a_chain_costs_what_its_first_counted_part_costs():
    noise = GaussianNoise(noise_multiplier=2.0)
    assert Chain().event(n_rows=9) == Uncounted("no part of the chain bounds what the scores tell")
    for parts in (
        (noise,),
        (noise, Swing(), Quantize()),
        (NoProtection(), noise),
        (Chain(parts=(noise,)), TopKPayload()),
    ):
        assert Chain(parts=parts).event(n_rows=9) == Gaussian(2.0)
    later = Chain(parts=(noise, Swing(scorer=Density())))
    assert later.reads_private
    assert not later.event(n_rows=9).counted  # no post-processing: private examples go in again


@pytest.mark.parametrize(
    "parts",
    [
        (Quantize(), Swing()),
        (TopKPayload(), Quantize(), GaussianNoise()),
        (Swing(), Chain(parts=(NoProtection(), GaussianNoise()))),
        (Chain(parts=(Swing(),)), Swing()),
    ],
)
def test_what_reads_logits_cannot_follow_what_makes_probabilities(parts):
    with pytest.raises(ConfigError, match=r"reads logits, but '\w+' before it makes probab"):
        Chain(parts=parts)


def test_a_chain_is_written_as_a_list():
    words = ["protector={name: chain, parts: [swing, {name: quantize, bits: 6}]}"]
    scenario = compose(words)
    assert scenario.protector == Chain(parts=(Swing(), Quantize(bits=6)))
    assert from_json(to_json(scenario)) == scenario
    assert describe(scenario.protector)["parts"][1] == {"name": "quantize", "bits": 6}
    later = compose([*words, "protector.parts=[topk_payload]"])
    assert later.protector == Chain(parts=(TopKPayload(),))


def test_a_chain_in_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "protector:\n"
        "  name: chain\n"
        "  parts:\n"
        "    - name: swing\n"
        "      scorer: {name: density}\n"
        "    - quantize\n"
    )
    expected = Chain(parts=(Swing(scorer=Density()), Quantize()))
    assert compose([f"scenario={path}"]).protector == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["protector={name: chain, parts: swing}"], "protector.parts: 'swing' is not a list"),
        (["protector={name: chain, parts: [swin]}"], "protector.parts[0]: no protector called"),
        (
            ["protector={name: chain, parts: [none, {name: quantize, bits: 40}]}"],
            "protector.parts[1].bits: 40 is refused",
        ),
        (
            ["protector={name: chain, parts: [quantize, swing]}"],
            "protector: parts: 'swing' reads logits, but 'quantize' before it",
        ),
        (
            ["protector={name: swing, temperature_max: 2}"],
            "protector: temperature_max: 2 is below the distiller's temperature 3",
        ),
        (["protector={name: swing, scorer: detector}"], "protector: the scorer 'detector' looks"),
        (
            ["protector={name: swing, server_temperature: told}", "server_view=sums"],
            "protector: temperatures told row by row",
        ),
        (
            [
                "protector={name: swing, server_temperature: told}",
                "method={name: fedmd, aggregator: {name: noisy_mean, noise_multiplier: 1.0}}",
            ],
            "protector: the aggregator 'noisy_mean' adds no noise to temperatures told row by row",
        ),
        (
            [
                "protector={name: chain, parts: [{name: swing, server_temperature: told}]}",
                "method={name: fedmd, aggregator: {name: noisy_mean, noise_multiplier: 1.0}}",
            ],
            "use server_temperature=agreed, or the aggregator gnmax",
        ),
        (
            ["protector=quantize", "method=fedmd", "method.distiller=mae"],
            "protector: 'quantize' makes probabilities",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_path(words, line):
    with pytest.raises(ConfigError) as error:
        compose(words)
    assert line in str(error.value)
