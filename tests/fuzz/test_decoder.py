"""Whatever arrives becomes a sound record or a documented error, and takes no memory it says."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedkd.transport.codes import RecordError
from fedkd.transport.records import read_reply
from tests.fuzz import harness, real_messages

ROOT = Path(__file__).parents[2]
MANY = settings(max_examples=300)
REPLIES, REQUESTS = real_messages.replies(), real_messages.requests()
FILES, FRAMES = real_messages.files(), real_messages.frames()
KEYS = ["knowledge", "consensus", "masks", "update", "proxy", "keys", "masked", "control", "x"]
NAMES = [
    *("scores", "classes", "temperatures", "rows", "weights", "inputs", "ids", "own", "public"),
    *("words", "clients", "w", "b"),
]
FACTS = [
    *("schema", "client", "n_rows", "space", "temperature", "bits", "columns", "wire", "weight"),
    *("proxy.source", "proxy.version", "hello.version", "hello.scenario", "hello.simulated"),
    *("round", "closing"),
]
KINDS = ["<f4", "<f8", "<f2", "|u1", "<u2", "<u4", "<i8", "<i4", "|b1", "<c8", ">f4", "|i1", "<u8"]


def test_real_messages_are_sound():
    became = {name: harness.as_reply(data) for name, data in REPLIES.items()}
    assert became["probabilities"].count("knowledge") == 1
    assert became["some classes"].count("knowledge") == 1
    assert "knowledge" in became["weights and temperatures"]
    assert "knowledge" in became["half precision"]
    assert "update" in became["parameters"]
    assert "contribution" in became["contribution"]
    assert all(said.startswith("read") for said in became.values())
    assert {harness.as_request(data) for data in REQUESTS.values()} == {"read"}
    assert {harness.as_file(data).split()[0] for data in FILES.values()} == {"read"}
    assert {harness.as_frame(data) for data in FRAMES.values()} == {"read"}


# Bytes.


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """Return real bytes with some of them changed, cut, doubled or put in."""
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["set", "cut", "put", "double"])):
            case "set":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "put":
                data[at:at] = draw(st.binary(max_size=12))
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


@given(st.one_of(damaged(list(REPLIES.values())), st.binary(max_size=200)))
@MANY
def test_damaged_replies(data):
    harness.as_reply(data)


@given(st.one_of(damaged(list(REQUESTS.values())), st.binary(max_size=200)))
@MANY
def test_damaged_requests(data):
    harness.as_request(data)


@given(st.one_of(damaged(list(FILES.values())), st.binary(max_size=200)))
@MANY
def test_damaged_files(data):
    harness.as_file(data)


def _file(told: str) -> bytes:
    head = json.dumps({"__metadata__": {"fedkd": told}}).encode()
    return struct.pack("<Q", len(head)) + head


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["schema", "parts", "kind", "rows", "upload.0"]), x)
        ),
        max_leaves=8,
    )
)
@example("[" * 100_000)
@example({"schema": 1, "parts": {"a": {}}})
@example({"schema": 1, "parts": {"upload.x": {"kind": "update", "order": [], "weight": 1}}})
def test_files_that_say_something_else(tree):
    harness.as_file(_file(tree if isinstance(tree, str) else json.dumps(tree)))
    harness.as_file(struct.pack("<Q", 4) + b"\xff\xfe\x00[")
    harness.as_file(struct.pack("<Q", 200_000) + b"[" * 200_000)


@given(st.one_of(damaged(list(FRAMES.values())), st.binary(max_size=60)))
@example(struct.pack("<I", 2**32 - 1))
@example(struct.pack("<IQ", 1, 2**63))
@example(struct.pack("<IQ", 1, 100_000) + b"[" * 100_000)
@MANY
def test_damaged_frames(data):
    harness.as_frame(data)


# Records that protocol buffers can carry, but no fedkd makes.


def file_of(kind: str, shape: tuple[int, ...], body: bytes) -> bytes:
    """Return a NumPy file that declares what it is told to."""
    head = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + body


SIZES = st.one_of(st.integers(0, 24), st.sampled_from([10, 20, 2**31, 2**62, 10**18]))
SHAPES = st.lists(SIZES, max_size=4).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Return an array, honest or not about its type, its shape and its bytes."""
    kind, shape = draw(st.sampled_from(KINDS)), draw(SHAPES)
    size = int(np.prod([min(n, 10**6) for n in shape])) * int(kind[2:])
    body = draw(st.binary(max_size=8)) * (min(size, 4096) // 8 + 1)
    body = body[:size] if draw(st.booleans()) else body
    said = draw(SHAPES) if draw(st.integers(0, 4)) == 0 else shape
    negative = draw(st.integers(0, 9)) == 0
    data = file_of(kind, tuple(-n for n in shape) if negative else shape, body)
    return Array(
        dtype=np.dtype(kind).name if draw(st.integers(0, 4)) else draw(st.text(max_size=5)),
        shape=said,
        stype=draw(st.sampled_from(["numpy.ndarray"] * 8 + ["torch", ""])),
        data=data if draw(st.integers(0, 9)) else draw(st.binary(max_size=90)),
    )


VALUES = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(["probs", "logits", "float32", "float16", "bfloat16", "pooled", 1, 3.0, 16]),
    st.lists(st.integers(-5, 5), max_size=3),
)


@st.composite
def records(draw: st.DrawFn, whole: list[bytes]) -> RecordDict:
    """Return a real message with arrays and facts replaced, added and left out."""
    made = harness.received(draw(st.sampled_from(whole)))
    assert made is not None
    for _ in range(draw(st.integers(1, 3))):
        match draw(st.sampled_from(["array", "array", "fact", "fact", "less", "kind"])):
            case "array":
                key = draw(st.sampled_from([*made, *KEYS]))
                kept = dict(made[key]) if isinstance(made.get(key), ArrayRecord) else {}
                name = draw(st.sampled_from([*kept, *NAMES]))
                made[key] = ArrayRecord({**kept, name: draw(arrays())})
            case "fact":
                kept = made.get("control")
                facts = dict(kept) if isinstance(kept, ConfigRecord) else {}
                made["control"] = ConfigRecord(
                    {**facts, draw(st.sampled_from(FACTS)): draw(VALUES)}
                )
            case "less":
                del made[draw(st.sampled_from(list(made)))]
                if not made:
                    return made
            case _:
                figures = MetricRecord({"accuracy": draw(st.floats())})
                facts = ConfigRecord({"members": [0, 1], "attempt": 1, "n_rows": draw(SIZES)})
                made[draw(st.sampled_from([*KEYS, "metrics", "roll"]))] = draw(
                    st.sampled_from([figures, facts])
                )
    return made


@given(records(list(REPLIES.values())))
@MANY
def test_replies_that_no_fedkd_makes(made):
    harness.reply_in(made)


@given(records(list(REQUESTS.values())))
@MANY
def test_requests_that_no_fedkd_makes(made):
    harness.request_in(made)


# Findings of the fuzzers, and what they came from.


def _changed(name: str, key: str, **changed: Array) -> RecordDict:
    made = harness.received(REPLIES[name])
    assert made is not None
    made[key] = ArrayRecord({**made[key], **changed})
    return made


@pytest.mark.parametrize(
    ("name", "key", "changed"),
    [
        # torch has no minimum of these types: the server stopped while it counted bytes.
        ("weights and temperatures", "masks", {"weights": Array(np.ones(5, np.complex64))}),
        ("weights and temperatures", "masks", {"weights": Array(np.ones(5, np.uint32))}),
        # No unsigned type holds these numbers: the same.
        ("some classes", "knowledge", {"classes": Array(np.full((5, 3), 2**40))}),
        ("some classes", "knowledge", {"classes": Array(np.full((5, 3), -1))}),
        # A number in the place of a list.
        ("contribution", "proxy", {"inputs": Array(np.zeros((), np.uint8))}),
        ("contribution", "proxy", {"ids": Array(np.zeros((), np.int64))}),
        # Other words for a shape, other numbers of dimensions.
        ("probabilities", "knowledge", {"scores": Array(np.zeros(5, np.float32))}),
        ("probabilities", "knowledge", {"scores": Array(np.zeros((5, 10, 1), np.float32))}),
        ("probabilities", "masks", {"rows": Array(np.zeros((3, 1), np.uint8))}),
    ],
)
def test_what_once_stopped_a_server_is_unreadable(name, key, changed):
    assert harness.reply_in(_changed(name, key, **changed)) == "unreadable"


def test_files_that_numpy_would_open_and_we_do_not():
    archive, old = io.BytesIO(), io.BytesIO()
    np.savez_compressed(archive, a=np.zeros((4096, 4096)))
    np.lib.format.write_array(old, np.zeros((5, 10), np.float32), version=(3, 0))
    unknown = file_of("<f1", (5, 10), bytes(50))  # for which NumPy raises a TypeError
    for data in (archive.getvalue(), old.getvalue(), unknown, b"\x80\x04N.", b""):
        scores = Array(dtype="float32", shape=(5, 10), stype="numpy.ndarray", data=data)
        assert harness.reply_in(_changed("probabilities", "knowledge", scores=scores)) == (
            "unreadable"
        )


HOSTILE = """
import resource
from tests.fuzz import harness, test_decoder
from flwr.app import Array, ArrayRecord, ConfigRecord
harness.intakes()
test_decoder.test_real_messages_are_sound()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
body = bytes(200)
for kind, shape in [("<f4", (5, 2**60)), ("<f4", (2**20, 2**20)), ("<f8", (2**28,)),
                    ("|u1", (2**30, 0)), ("<i8", (0, 2**31, 2**31)), ("<f4", (-5, -10)),
                    ("<f4", (2**33, 1)), ("<f4", (2**28, 10))]:
    said = [("float32", shape), ("float32", (5, 10))]
    for dtype, declared in said:
        array = Array(dtype=dtype, shape=declared, stype="numpy.ndarray",
                      data=test_decoder.file_of(kind, shape, body))
        for name, key, part in [("probabilities", "knowledge", "scores"),
                                ("parameters", "update", "w"), ("contribution", "proxy", "inputs"),
                                ("probabilities", "masks", "rows"), ("masked", "masked", "words")]:
            became = harness.reply_in(test_decoder._changed(name, key, **{part: array}))
            assert became in ("unreadable", "read"), became
for name in ("few bits", "probabilities"):
    for fact in ({"n_rows": 2**40}, {"n_rows": 2**24}, {"columns": 2**31}, {"columns": 2**62}):
        made = harness.received(test_decoder.REPLIES[name])
        made["control"] = ConfigRecord({**made["control"], **fact})
        if name == "few bits" or "n_rows" in fact:
            assert harness.reply_in(made) == "unreadable", fact
few = harness.received(test_decoder.REPLIES["few bits"])
many = Array(test_decoder.np.zeros(2**22, dtype="uint8"))
few["knowledge"] = ArrayRecord({"scores": many})
few["control"] = ConfigRecord({**few["control"], "bits": 1, "columns": 2**23 // 5})
assert harness.reply_in(few) == "unreadable"
assert harness.as_frame(test_decoder.struct.pack("<IQ", 1, 2**62) + b"{}") == "unreadable"
print("all refused")
"""


def test_what_a_message_declares_is_not_allocated():
    """In a process that may take 128 MiB more than it has."""
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("all refused\n"), done.stderr[-3000:]


def test_a_message_of_too_many_bytes_is_not_read():
    large = Array(np.zeros(harness.LIMITS.message_bytes, np.uint8))
    made = _changed("probabilities", "knowledge", scores=large)
    with pytest.raises(RecordError, match=rf"at most {harness.LIMITS.message_bytes} are read"):
        read_reply(made, harness.LIMITS)
