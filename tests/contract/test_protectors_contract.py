"""What every protector promises: the rows stay, and only its own stream changes what it does."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from fedkd_server.validation import Expected, check_knowledge

from fedkd.errors import ConfigError
from fedkd.methods.edgefd import EdgeFD
from fedkd.privacy.events import from_plain, to_plain
from fedkd.protectors.base import Context, Protector, dense, protectors
from fedkd.protectors.chain import Chain
from fedkd.protectors.gaussian import GaussianNoise
from fedkd.protectors.noise import Noise
from fedkd.protectors.quantize import Quantize
from fedkd.protectors.swing import NoiseLaw, ServerTemperature, Swing
from fedkd.protectors.topk_payload import TopKPayload
from fedkd.registry import build, describe
from fedkd.scorers.detector import Detector
from fedkd.scorers.peer_gap import PeerGap
from fedkd.transport.messages import Reply
from fedkd.transport.records import count_bytes, read_reply, reply_records
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space

METHOD = EdgeFD()
T = METHOD.distiller.teacher_temperature
N_ROWS, N_CLASSES = 30, 5


def _ready(protector: Protector) -> Protector:
    """Fill in the noise that a plan would work out from a target before a run."""
    if any(f.name == "noise_multiplier" for f in fields(protector)):
        return replace(protector, noise_multiplier=0.5)
    return protector


PROTECTORS = {name: _ready(protectors.get(name)()) for name in protectors.names()} | {
    "swing, told": Swing(server_temperature=ServerTemperature.TOLD),
    "swing, laplace": Swing(noise=Noise.LAPLACE, noise_law=NoiseLaw.GROWING),
    "swing, by peers": Swing(scorer=PeerGap(), noise_law=NoiseLaw.PROPORTIONAL),
    "one class": TopKPayload(k=1),
    "all classes": TopKPayload(k=99),
    "one bit": Quantize(bits=1),
    "sixteen bits": Quantize(bits=16),
    "gaussian, swing, topk, bits": Chain(
        parts=(GaussianNoise(noise_multiplier=0.01), Swing(), TopKPayload(k=2), Quantize(bits=3))
    ),
    "bits, topk": Chain(parts=(Quantize(bits=5), TopKPayload(k=3))),
    "told, in three bits": Chain(
        parts=(Swing(server_temperature=ServerTemperature.TOLD), Quantize(bits=3))
    ),
}
every_protector = pytest.mark.parametrize("protector", PROTECTORS.values(), ids=PROTECTORS)


def _knowledge(n_classes: int = N_CLASSES, n_rows: int = N_ROWS) -> Knowledge:
    rng = torch.Generator().manual_seed(1)
    rows = torch.arange(0, n_rows, 2)
    return Knowledge(
        rows=rows,
        scores=5 * torch.randn(len(rows), n_classes, generator=rng),
        weights=1 - torch.rand(len(rows), generator=rng),
        space=Space.LOGITS,
    )


def _context(n_rows: int = N_ROWS) -> Context:
    proxy = ProxySet(
        inputs=torch.zeros(n_rows, 4),
        ids=torch.arange(n_rows),
        owner=None,
        source=ProxySource.EXTERNAL,
    )
    rng = torch.Generator().manual_seed(2)
    rows = torch.arange(0, n_rows, 3)
    consensus = Consensus(
        rows=rows,
        scores=torch.randn(len(rows), N_CLASSES, generator=rng).softmax(dim=1),
        space=Space.PROBS,
        temperature=T,
        keepers=None,
    )
    return Context(proxy=proxy, consensus=consensus, temperature=T)


def _protect(protector: Protector, knowledge: Knowledge | None = None, *, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    given = _knowledge() if knowledge is None else knowledge
    return protector.protect(given, _context(), rng=rng)


def _wire(knowledge: Knowledge) -> Knowledge:
    return read_reply(reply_records(Reply(client=0, upload=knowledge))).upload


@every_protector
def test_rows_and_weights_are_kept(protector):
    before, after = _knowledge(), _protect(protector)
    assert torch.equal(before.rows, after.rows)
    assert torch.equal(before.weights, after.weights)
    assert dense(after, n_classes=N_CLASSES).scores.shape == before.scores.shape
    assert after.scores.dtype == torch.float32


@every_protector
def test_only_its_own_stream_changes_what_it_does(protector, global_seed):
    found = []
    for seed in (0, 1):
        with global_seed(seed):
            before = torch.get_rng_state()
            found.append(_protect(protector).scores)
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)
    noisy = {Swing, GaussianNoise}
    draws = type(protector) in noisy or any(
        type(part) in noisy for part in getattr(protector, "parts", ())
    )
    assert torch.equal(found[0], _protect(protector, seed=1).scores) != draws


@every_protector
def test_what_it_was_given_stays_as_it_was(protector):
    given = _knowledge()
    _protect(protector, given)
    assert torch.equal(given.scores, _knowledge().scores)


@every_protector
def test_it_says_truly_what_it_does_to_logits(protector):
    assert (_protect(protector).space is Space.LOGITS) == protector.keeps_logits
    soft = replace(_knowledge(), scores=_knowledge().scores.softmax(dim=1), space=Space.PROBS)
    if protector.needs_logits:
        with pytest.raises(ValueError, match="where logits are needed"):
            _protect(protector, soft)
    else:
        assert _protect(protector, soft).space is Space.PROBS


@every_protector
def test_the_server_accepts_what_leaves_and_reads_what_was_meant(protector):
    expected = Expected(
        space=METHOD.distiller.space,
        temperature=T,
        n_rows=N_ROWS,
        n_classes=N_CLASSES,
        row_temperatures=protector.row_temperatures(temperature=T),
    )
    leaving = METHOD.encode(_protect(protector))
    read = check_knowledge(_wire(leaving), expected)
    meant = dense(leaving, n_classes=N_CLASSES)
    assert torch.equal(read.scores, meant.scores)
    assert read.classes is None
    torch.testing.assert_close(read.scores.sum(dim=1), torch.ones(len(read)), rtol=0, atol=1e-5)
    if leaving.row_temperatures is not None:
        assert torch.equal(read.row_temperatures, leaving.row_temperatures)


@every_protector
def test_a_client_without_a_row_has_nothing_to_protect(protector):
    none = replace(
        _knowledge(),
        rows=torch.arange(0),
        scores=torch.zeros(0, N_CLASSES),
        weights=torch.zeros(0),
    )
    assert len(_wire(METHOD.encode(_protect(protector, none)))) == 0


@every_protector
def test_its_event_is_kept_as_plain_data(protector):
    event = protector.event(n_rows=N_ROWS)
    assert from_plain(to_plain(event)) == event
    event.dp_event()
    if protector.reads_private:
        assert not event.counted


@every_protector
def test_it_is_rebuilt_from_its_print(protector):
    assert build(Protector, describe(protector), path="protector") == protector


QUIET = {
    "swing": Swing(noise_scale=0.0),
    "swing, told": Swing(noise_scale=0.0, server_temperature=ServerTemperature.TOLD),
    "swing, by peers": Swing(scorer=PeerGap(), noise_scale=0.0),
    "topk": TopKPayload(k=3),
    "bits": Quantize(bits=6),
    "both": Chain(parts=(TopKPayload(k=3), Quantize(bits=6))),
}


@pytest.mark.parametrize("protector", QUIET.values(), ids=QUIET)
def test_without_noise_no_class_overtakes_another(protector):
    given = _knowledge().scores
    found = dense(_protect(protector), n_classes=N_CLASSES).scores
    order = given.argsort(dim=1, descending=True)
    assert bool((found.gather(1, order).diff(dim=1) <= 0).all())
    assert torch.equal(found.argmax(dim=1), given.argmax(dim=1))


PLAIN = {
    "none": protectors.get("none")(),
    "chain of nothing": Chain(),
    "swing without likelihood": Swing(scorer=PeerGap(unknown=0.0), noise_scale=0.0),
    "swing, told": Swing(
        scorer=PeerGap(unknown=0.0), noise_scale=0.0, server_temperature=ServerTemperature.TOLD
    ),
    "swing, its noise in proportion": Swing(
        scorer=PeerGap(unknown=0.0), noise_scale=0.5, noise_law=NoiseLaw.PROPORTIONAL
    ),
    "swing in a chain": Chain(parts=(Chain(), Swing(scorer=PeerGap(unknown=0.0), noise_scale=0.0))),
}


@pytest.mark.parametrize("protector", PLAIN.values(), ids=PLAIN)
def test_strength_zero_is_plain_distillation_to_the_bit(protector):
    first_round = replace(_context(), consensus=None)  # in which PeerGap(unknown=0) is 0
    protected = protector.protect(_knowledge(), first_round, rng=torch.Generator().manual_seed(0))
    plain, leaving = METHOD.encode(_knowledge()), METHOD.encode(protected)
    assert torch.equal(leaving.scores, plain.scores)
    assert (leaving.space, leaving.temperature) == (plain.space, plain.temperature)
    if leaving.row_temperatures is not None:
        assert leaving.row_temperatures.tolist() == [T] * len(plain)


def test_temperature_alone_protects_nothing_against_a_reader_who_knows_it():
    """A negative control: raised to its temperature and renormalized, the model's answer is back.

    This is why the ledger counts nothing for a temperature, and why noise comes after the softmax.
    """
    protector = Swing(noise_scale=0.0, server_temperature=ServerTemperature.TOLD)
    sent = _wire(_protect(protector))
    assert float(sent.row_temperatures.max()) > 7
    raised = sent.scores.double() ** sent.row_temperatures.double()[:, None]
    back = raised / raised.sum(dim=1, keepdim=True)
    answer = _knowledge().scores.double().softmax(dim=1)
    torch.testing.assert_close(back, answer, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(sent.scores.double(), answer, atol=0.1)


def _bytes_of_scores(protector: Protector, n_classes: int = 100, n_rows: int = 2000) -> int:
    given, context = _knowledge(n_classes, n_rows), replace(_context(n_rows), consensus=None)
    protected = protector.protect(given, context, rng=torch.Generator().manual_seed(0))
    return count_bytes(reply_records(Reply(client=0, upload=METHOD.encode(protected))))["knowledge"]


@pytest.mark.parametrize(
    ("protector", "bytes_a_row"),
    [
        (protectors.get("none")(), 400),
        (TopKPayload(k=3), 3 * 4 + 3),
        (Quantize(bits=1), 100 / 8),
        (Quantize(bits=5), 500 / 8),
        (Chain(parts=(TopKPayload(k=3), Quantize(bits=4))), 12 / 8 + 3),
        (Swing(server_temperature=ServerTemperature.TOLD), 404),
    ],
)
def test_bytes_on_the_wire_are_what_the_payload_takes(protector, bytes_a_row):
    payload = 1000 * bytes_a_row
    overhead = 500  # NumPy headers and names
    assert payload <= _bytes_of_scores(protector) <= payload + overhead


def test_class_numbers_take_two_bytes_from_257_classes_on():
    few, many = (_bytes_of_scores(TopKPayload(k=4), n_classes=n) for n in (256, 257))
    assert few < 1000 * (4 * 4 + 4) + 500
    assert 1000 * (4 * 4 + 8) <= many < 1000 * (4 * 4 + 8) + 500


@pytest.mark.parametrize(
    ("overrides", "less_than_plain"),
    [
        (["protector=swing"], 1),
        (["protector={name: swing, server_temperature: told, scorer: peer_gap}"], None),
        (["protector={name: swing, scorer: density, noise: laplace}"], 1),
        (["protector={name: swing, scorer: {name: detector, classes: [3]}}"], 1),
        (["protector={name: gaussian, noise_multiplier: 0.001}"], 1),
        (["protector={name: chain, parts: [swing, {name: quantize, bits: 4}]}"], 0.2),
        (["protector=topk_payload"], 0.6),
    ],
)
def test_a_run_with_it_finishes_and_nothing_is_dropped(simulated, overrides, less_than_plain):
    run, plain = simulated(*overrides), simulated()
    assert (run.summary["status"], run.summary["failures"]) == ("finished", 0)
    assert run.summary["result_hash"] != plain.summary["result_hash"]
    if less_than_plain:
        up = run.summary["bytes_by_kind"]["up"]["knowledge"]
        assert up <= less_than_plain * plain.summary["bytes_by_kind"]["up"]["knowledge"]


def test_none_changes_no_bit():
    assert torch.equal(_protect(protectors.get("none")()).scores, _knowledge().scores)


@pytest.mark.parametrize(
    ("protector", "message"),
    [
        (Swing(temperature_max=2.0), "temperature_max: 2 is below the distiller's temperature 3"),
        (Swing(scorer=Detector()), "'detector' looks for no class"),
        (Chain(parts=(Chain(), Swing(temperature_max=2.0))), "give 3 or more"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run(protector, message):
    with pytest.raises(ConfigError, match=message):
        protector.check(temperature=T)
    with pytest.raises(ConfigError, match=message):
        _protect(protector)
