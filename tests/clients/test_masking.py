"""Masked sums on the client: fixed point, pads from real primitives, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from fedkd_clients.fleet import Fleet
from fedkd_clients.masking import Masking, MaskingError
from fedkd_clients.pads import mask, new_key, public_half
from fedkd_clients.store import FileStore, MemoryStore
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedkd.privacy.masked_sums import MOST_MEMBERS, added, steps_per_unit, sums_from, to_words
from fedkd.transport.messages import Action, Keys, Request, Roll
from fedkd.types import Knowledge, ProxySet, ProxySource, Space

FALSE_ALARM = 1e-9
"""Chance of each statistical test here to fail on masks that are truly uniform."""


# Fixed point.


@given(n=st.integers(1, MOST_MEMBERS))
def test_no_sum_of_members_wraps_and_no_finer_step_would_do(n):
    steps = steps_per_unit(n)
    assert n * steps < 2**32 <= n * 2 * steps


@pytest.mark.parametrize("n", [0, -1, MOST_MEMBERS + 1])
def test_too_many_members_are_refused(n):
    with pytest.raises(ValueError, match=f"{n} members"):
        steps_per_unit(n)


def test_steps_are_rounded_half_to_even():
    half = Fraction(1, 2 * steps_per_unit(10))
    odd_multiples = torch.tensor([float(half * k) for k in (1, 3, 5, 7)], dtype=torch.float64)
    assert to_words(odd_multiples, n_members=10).tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize("value", [-1e-12, 1 + 1e-12, float("nan"), float("inf")])
def test_values_that_could_wrap_are_refused(value):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        to_words(torch.tensor([0.5, value], dtype=torch.float64), n_members=3)


@given(values=st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=20))
def test_a_sum_is_within_half_a_step_a_member(values):
    n, exact = len(values), torch.tensor(values, dtype=torch.float64)
    words = added(to_words(row, n_members=n) for row in exact)
    found = [Fraction(int(word), steps_per_unit(n)) for word in words]
    true = [sum(Fraction(row[c]) for row in values) for c in range(4)]
    bound = n * Fraction(1, 2 * steps_per_unit(n))
    assert all(abs(a - b) <= bound for a, b in zip(found, true, strict=True))


def test_the_largest_possible_sum_comes_back():
    for n in (1, 2, 3, 4, 7, 8, 1000):
        ones = torch.ones(1, 3, dtype=torch.float64)
        words = added(to_words(ones, n_members=n) for _ in range(n))
        sums = sums_from(
            words,
            rows=torch.tensor([1]),
            counts=torch.tensor([0, n]),
            n_members=n,
            temperature=3.0,
        )
        assert sums.mass.tolist() == [0, n]
        assert sums.scores.tolist() == [[0, 0], [n, n]]
        assert sums.keepers.tolist() == [0, n]


def test_rows_whose_weights_drown_in_rounding_are_left_out():
    n, step = 4, 1 / steps_per_unit(4)
    weights = [2000 * step, 500 * step]
    values = torch.tensor([[w / 2, w / 2, w] for w in weights], dtype=torch.float64)
    sums = sums_from(
        added(to_words(values, n_members=n) for _ in range(n)),
        rows=torch.tensor([0, 1]),
        counts=torch.tensor([n, n]),
        n_members=n,
        temperature=1.0,
    )
    assert sums.keepers.tolist() == [n, 0]
    assert sums.mass[1] == 0


# Pads.


def _chacha20(key: bytes, n_bytes: int) -> bytes:
    """ChaCha20 of RFC 8439 with nonce and counter 0, written down from the text."""

    def rotl(x: int, n: int) -> int:
        return ((x << n) | (x >> (32 - n))) & 0xFFFFFFFF

    def quarter(s: list[int], a: int, b: int, c: int, d: int) -> None:
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotl(s[z] ^ s[x], n)

    columns = [(i, i + 4, i + 8, i + 12) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    stream = b""
    for counter in range(-(-n_bytes // 64)):
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key)]
        start += [counter, 0, 0, 0]
        state = list(start)
        for _ in range(10):
            for a, b, c, d in columns + diagonals:
                quarter(state, a, b, c, d)
        stream += struct.pack(
            "<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(state, start, strict=True))
        )
    return stream[:n_bytes]


def _hkdf(secret: bytes, info: bytes) -> bytes:
    """The first 32 bytes of HKDF-SHA256 of RFC 5869 without salt."""
    pseudo_random_key = hmac.digest(bytes(32), secret, hashlib.sha256)
    return hmac.digest(pseudo_random_key, info + b"\x01", hashlib.sha256)


ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4e8ee1b2f3b9dc0d8e6bc4a2b1a9d8")
"""Any 32 bytes are a private key."""
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")


def test_a_pad_is_x25519_hkdf_chacha20_by_the_letter():
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    members = {4: public_half(ALICE), 9: public_half(BOB)}
    bob = X25519PrivateKey.from_private_bytes(BOB)
    secret = bob.exchange(X25519PrivateKey.from_private_bytes(ALICE).public_key())
    info = b"fedkd masked sums 1" + struct.pack(">2Q", 4, 9) + members[4] + members[9] + b"use"
    expected = np.frombuffer(_chacha20(_hkdf(secret, info), 4 * 40), dtype="<u4").reshape(8, 5)
    found = mask(ALICE, members, client=4, use=b"use", shape=(8, 5))
    assert np.array_equal(found, expected)
    assert np.array_equal(mask(BOB, members, client=9, use=b"use", shape=(8, 5)), -expected)


def test_the_reference_stream_is_the_one_of_the_standard():
    # RFC 8439, appendix A.1, test vector 1: zero key, zero nonce, counter 0.
    block = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert _chacha20(bytes(32), 32).hex() == block


@pytest.mark.parametrize("n", [2, 3, 10])
def test_all_members_masks_cancel_and_fewer_do_not(n):
    private = {3 * i + 1: new_key() for i in range(n)}
    members = {client: public_half(key) for client, key in private.items()}
    masks = [
        mask(key, members, client=client, use=b"", shape=(50,)) for client, key in private.items()
    ]
    assert added(masks).tolist() == [0] * 50
    assert np.count_nonzero(added(masks[1:])) > 40


def _uniform(words: np.ndarray) -> float:
    """Return the p-value of chi-square over the top bytes and over the low bytes."""
    halves = [(words >> shift) & 0xFF for shift in (24, 0)]
    return min(float(chisquare(np.bincount(h.ravel(), minlength=256)).pvalue) for h in halves)


def test_a_mask_is_uniform_and_differs_for_every_use_peer_and_key():
    keys = [new_key() for _ in range(3)]
    members = {i: public_half(key) for i, key in enumerate(keys)}
    shape = (100_000,)
    first = mask(keys[0], members, client=0, use=b"1", shape=shape)
    others = [
        mask(keys[0], members, client=0, use=b"2", shape=shape),
        mask(keys[0], {0: members[0], 1: members[1]}, client=0, use=b"1", shape=shape),
        mask(keys[0], {0: members[0], 2: members[2]}, client=0, use=b"1", shape=shape),
    ]
    assert _uniform(first) > FALSE_ALARM / 14
    for other in others:
        assert _uniform(other) > FALSE_ALARM / 14
        assert _uniform(first - other) > FALSE_ALARM / 14
    # The test would notice: what is masked is far from uniform.
    assert _uniform(np.zeros(shape, dtype=np.uint32)) < FALSE_ALARM
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert _uniform(to_words(values, n_members=10)) < FALSE_ALARM


def test_keys_come_from_the_operating_system():
    assert len({new_key() for _ in range(20)}) == 20


# What one client refuses.

N_ROWS, N_CLASSES = 12, 3


def _knowledge(kept=(0, 3, 11), **changes) -> Knowledge:
    scores = torch.rand(len(kept), N_CLASSES, generator=torch.Generator().manual_seed(1))
    knowledge = Knowledge(
        rows=torch.tensor(kept, dtype=torch.int64),
        scores=(5 * scores).softmax(dim=1),
        weights=torch.ones(len(kept)),
        space=Space.PROBS,
        temperature=3.0,
    )
    return replace(knowledge, **changes)


def _federation(n: int = 3) -> tuple[list[Masking], Keys]:
    clients = [Masking() for _ in range(n)]
    public = torch.stack([client.public_key() for client in clients])
    keys = Keys(clients=torch.arange(n), public=public)
    for i, client in enumerate(clients):
        client.learn(keys, client=i)
    return clients, keys


def _one() -> Masking:
    """Return client 1 of three, which has counted in round 2, attempt 1."""
    client = _federation()[0][1]
    _begin(client, Roll(members=(0, 1, 2)))
    return client


def _begin(client: Masking, roll: Roll | None, *, round: int = 2) -> None:
    client.begin(roll, client=1, round=round, n_min=3)
    client.hold(_knowledge(), n_rows=N_ROWS, n_classes=N_CLASSES)
    client.counts(n_rows=N_ROWS)


def test_three_clients_sums_come_out():
    clients, _ = _federation()
    kept = [(0, 3, 11), (3,), (3, 11)]
    roll, words = Roll(members=(0, 1, 2)), []
    for i, client in enumerate(clients):
        client.begin(roll, client=i, round=1, n_min=2)
        client.hold(_knowledge(kept[i]), n_rows=N_ROWS, n_classes=N_CLASSES)
        words.append(client.counts(n_rows=N_ROWS).numpy())
    assert added(words).tolist() == [1, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2]
    announced = replace(roll, rows=torch.tensor([3, 11]))
    words = [c.scores(announced, round=1, n_rows=N_ROWS).numpy() for c in clients]
    weights = added(words)[:, -1] / steps_per_unit(3)
    assert weights.tolist() == [3, 2]


def test_the_good_request_is_answered():
    client = _one()
    roll = Roll(members=(0, 1, 2), rows=torch.tensor([0, 3]))
    assert client.scores(roll, round=2, n_rows=N_ROWS).shape == (2, N_CLASSES + 1)
    _begin(client, Roll(members=(0, 1, 2), attempt=2))
    _begin(client, Roll(members=(0, 1, 2)), round=3)


@pytest.mark.parametrize(
    ("roll", "round", "reason"),
    [
        (None, 3, "no members were named"),
        (Roll(members=(0, 2)), 3, "lack client 1"),
        (Roll(members=(0, 1)), 3, "2 members, fewer than n_min=3"),
        (Roll(members=(1,)), 3, "1 members, fewer"),
        (Roll(members=()), 3, "lack client 1"),
        (Roll(members=(0, 1, 7)), 3, r"no key for members \[7\]"),
        (Roll(members=(0, 1, 1, 2)), 3, "out of order"),
        (Roll(members=(2, 1, 0)), 3, "out of order"),
        (Roll(members=(0, 1, 2)), 2, "round 2, attempt 1 would use a mask twice"),
        (Roll(members=(0, 1, 2), attempt=0), 2, "would use a mask twice"),
        (Roll(members=(0, 1, 2), attempt=9), 1, "would use a mask twice"),
    ],
)
def test_a_sum_that_could_give_it_away_is_not_begun(roll, round, reason):
    client = _one()
    before = client.turn
    with pytest.raises(MaskingError, match=reason):
        client.begin(roll, client=1, round=round, n_min=3)
    assert client.turn == before


@pytest.mark.parametrize(
    ("changes", "round", "reason"),
    [
        ({"attempt": 2}, 2, "another sum"),
        ({}, 3, "another sum"),
        ({"members": (0, 1)}, 2, "another sum"),
        ({"rows": None}, 2, "no rows were announced"),
        ({"rows": torch.tensor([3, 0])}, 2, "out of order"),
        ({"rows": torch.tensor([3, 3])}, 2, "out of order"),
        ({"rows": torch.tensor([-1, 3])}, 2, "outside"),
        ({"rows": torch.tensor([3, N_ROWS])}, 2, "outside"),
    ],
)
def test_scores_are_given_for_the_counted_sum_only(changes, round, reason):
    client, roll = _one(), Roll(members=(0, 1, 2), rows=torch.tensor([0, 3]))
    with pytest.raises(MaskingError, match=reason):
        client.scores(replace(roll, **changes), round=round, n_rows=N_ROWS)
    assert client.scores(roll, round=2, n_rows=N_ROWS).dtype == torch.uint32


def test_scores_are_given_once():
    client, roll = _one(), Roll(members=(0, 1, 2), rows=torch.tensor([0, 3]))
    client.scores(roll, round=2, n_rows=N_ROWS)
    for rows in ([0, 3], [0], []):
        again = replace(roll, rows=torch.tensor(rows, dtype=torch.int64))
        with pytest.raises(MaskingError, match="answered already"):
            client.scores(again, round=2, n_rows=N_ROWS)


def test_nothing_is_counted_without_an_upload_of_this_round():
    client = _one()
    client.begin(Roll(members=(0, 1, 2)), client=1, round=3, n_min=3)
    with pytest.raises(MaskingError, match="no upload of this round"):
        client.counts(n_rows=N_ROWS)
    with pytest.raises(MaskingError, match="no upload of this round"):
        _federation()[0][0].counts(n_rows=N_ROWS)


def test_a_key_is_believed_at_first_sight_only():
    clients, keys = _federation()
    clients[1].learn(keys, client=1)
    forged = keys.public.clone()
    forged[2, 5] += 1
    with pytest.raises(MaskingError, match="the key of client 2 changed"):
        clients[1].learn(Keys(clients=keys.clients, public=forged), client=1)
    forged = keys.public.clone()
    forged[1] = forged[0]
    with pytest.raises(MaskingError, match="another key for client 1"):
        clients[1].learn(Keys(clients=keys.clients, public=forged), client=1)
    with pytest.raises(MaskingError, match="another key for client 1"):
        clients[1].learn(Keys(clients=keys.clients[:1], public=keys.public[:1]), client=1)
    with pytest.raises(MaskingError, match="bytes of keys"):
        clients[1].learn(Keys(clients=keys.clients, public=keys.public[:, :31]), client=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"space": Space.LOGITS},
        {"classes": torch.arange(N_CLASSES)},
        {"row_temperatures": torch.ones(3)},
        {"scores": torch.full((3, N_CLASSES), float("nan"))},
        {"scores": torch.tensor([[1.5, -0.5, 0.0]] * 3)},
        {"scores": torch.full((3, N_CLASSES), 0.5)},
        {"scores": torch.full((3, N_CLASSES + 1), 1 / 4)},
        {"weights": torch.tensor([1.0, 1.0, 1.1])},
        {"weights": torch.tensor([1.0, 1.0, 0.0])},
        {"weights": torch.ones(2)},
        {"rows": torch.tensor([0, 0, 1])},
        {"rows": torch.tensor([0, 1, N_ROWS])},
        {"rows": torch.tensor([-1, 0, 1])},
    ],
)
def test_what_the_server_would_drop_is_dropped_here(changes):
    with pytest.raises(ValueError, match=r"\w"):
        Masking().hold(_knowledge(**changes), n_rows=N_ROWS, n_classes=N_CLASSES)


def test_a_client_that_kept_nothing_takes_part():
    clients, _ = _federation()
    client = clients[1]
    client.begin(Roll(members=(0, 1, 2)), client=1, round=1, n_min=3)
    nothing = _knowledge((), scores=torch.empty(0, 1, 2, 2))
    client.hold(nothing, n_rows=N_ROWS, n_classes=N_CLASSES)
    assert client.counts(n_rows=N_ROWS).shape == (N_ROWS,)


def test_some_classes_of_a_row_are_summed_as_all_of_them():
    client = _one()
    some = _knowledge(scores=torch.full((3, 1), 0.7), classes=torch.full((3, 1), 2))
    client.hold(some, n_rows=N_ROWS, n_classes=N_CLASSES)
    expected = torch.tensor([[0.15, 0.15, 0.7, 1.0]] * 3, dtype=torch.float64)
    assert torch.allclose(client.held.values, expected, atol=1e-6)


# On disk, and in a fleet.


def _state(tiny):
    fleet = Fleet(tiny("server_view=sums"), MemoryStore(), device=torch.device("cpu"))
    return fleet._learner.state(1)


def test_a_restart_does_not_bring_a_used_mask_back(tiny, tmp_path):
    state = _state(tiny)
    state.masking = _one()
    roll = Roll(members=(0, 1, 2), rows=torch.tensor([0, 3]))
    FileStore(tmp_path).put(1, state)
    stored = _state(tiny)
    FileStore(tmp_path).get(1, stored)
    back = stored.masking
    with pytest.raises(MaskingError, match="use a mask twice"):
        back.begin(Roll(members=(0, 1, 2)), client=1, round=2, n_min=3)
    words = back.scores(roll, round=2, n_rows=N_ROWS)
    assert torch.equal(words, state.masking.scores(roll, round=2, n_rows=N_ROWS))
    state.masking = back
    FileStore(tmp_path).put(1, state)
    FileStore(tmp_path).get(1, stored)
    again = stored.masking
    with pytest.raises(MaskingError, match="answered already"):
        again.scores(roll, round=2, n_rows=N_ROWS)
    assert torch.equal(again.public_key(), back.public_key())
    assert again.peers == back.peers


def _proxy() -> ProxySet:
    return ProxySet(
        inputs=torch.zeros(N_ROWS, 1, 8, 8, dtype=torch.uint8),
        ids=torch.arange(N_ROWS),
        owner=None,
        source=ProxySource.EXTERNAL,
    )


def test_with_sums_no_upload_leaves_and_without_them_no_mask_does(tiny):
    cpu = torch.device("cpu")
    sums = Fleet(tiny("server_view=sums", "proxy=external"), MemoryStore(), device=cpu)
    plain = Request(action=Action.ROUND, client=1, round=1, proxy=_proxy())
    (reply,) = sums.handle([plain])
    assert (reply.error, reply.upload, reply.masked) == ("MaskingError", None, None)
    uploads = Fleet(tiny("proxy=external"), MemoryStore(), device=cpu)
    for action in (Action.KEYS, Action.COUNTS, Action.SCORES):
        (reply,) = uploads.handle([Request(action=action, client=1, round=1)])
        assert (reply.error, reply.masked) == ("MaskingError", None)
