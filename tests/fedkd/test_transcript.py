"""A transcript holds what passed, whatever ended the run, and does not read when it was touched."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch

from fedkd.audit.views import Adversary
from fedkd.errors import ConfigError, RunStopped
from fedkd.results import RoundResult, Traffic
from fedkd.run_folder import RunFolder
from fedkd.runtime import Kept
from fedkd.scenario import Scenario
from fedkd.transcript import Transcript
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space, Update

CLIENTS = 3


def _upload(n: int, client: int) -> Knowledge:
    rng = torch.Generator().manual_seed(100 * n + client)
    return Knowledge(
        rows=torch.arange(4),
        scores=torch.softmax(torch.randn(4, 5, generator=rng), dim=1),
        weights=torch.ones(4),
        space=Space.PROBS,
        temperature=3.0,
    )


def _result(n: int) -> RoundResult:
    if n == 0:
        proxy = ProxySet(
            inputs=torch.arange(16, dtype=torch.uint8).reshape(4, 4),
            ids=torch.arange(4),
            owner=torch.tensor([0, 0, 1, 2]),
            source=ProxySource.POOLED,
        )
        return RoundResult(round=0, cohort=[], measurements=[], traffic=Traffic(proxy=proxy))
    uploads = {client: _upload(n, client) for client in range(CLIENTS)}
    consensus = Consensus(
        rows=torch.arange(4),
        scores=torch.stack([u.scores for u in uploads.values()]).mean(dim=0),
        space=Space.PROBS,
        temperature=3.0,
        keepers=torch.full((4,), CLIENTS),
    )
    student = Update(arrays={"w": torch.full((2,), float(n))})
    return RoundResult(
        round=n,
        cohort=list(range(CLIENTS)),
        measurements=[],
        traffic=Traffic(uploads=uploads, broadcast=consensus, student=student),
    )


def _recorded(out, kept: Kept, *, rounds: int = 3, ending: BaseException | None = None):
    """Return the folder of a run of ``rounds`` rounds that ends as told."""
    folder = RunFolder.create(
        out, Scenario(clients=CLIENTS, models="mlp", rounds=9, transcript=kept)
    )

    def stream():
        for n in range(rounds + 1):
            yield _result(n)
        if ending is not None:
            raise ending
        # The last budget is spent: a result without messages.
        yield RoundResult(round=rounds + 1, cohort=[], measurements=[], ended="spent")

    def consume():
        with folder:
            for _ in folder.record(stream()):
                pass

    if ending is None:
        consume()
    else:
        with pytest.raises(type(ending)):
            consume()
    return folder.path


@pytest.fixture
def whole(tmp_path):
    return _recorded(tmp_path, Kept.ALL)


def test_all_rounds_come_back_as_they_were(whole):
    transcript = Transcript.read(whole)
    assert (transcript.kept, transcript.rounds()) == (Kept.ALL, (1, 2, 3))
    for n in (3, 1, 2):
        uploads = transcript.traffic(n).uploads
        assert list(uploads) == [0, 1, 2]
        for client, upload in uploads.items():
            assert torch.equal(upload.scores, _upload(n, client).scores)
        broadcast = transcript.traffic(n).broadcast
        assert isinstance(broadcast, Consensus)
        assert broadcast.keepers.tolist() == [CLIENTS] * 4
    assert transcript.proxy().owner.tolist() == [0, 0, 1, 2]


def test_the_last_round_alone_is_kept_but_all_are_hashed(whole, tmp_path):
    last = _recorded(tmp_path / "last", Kept.LAST)
    names = sorted(path.name for path in (last / "transcript").iterdir())
    assert names == [
        "index.json",
        "proxy.safetensors",
        "round-0003.safetensors",
        "student.safetensors",
    ]
    transcript, everything = Transcript.read(last), Transcript.read(whole)
    assert transcript.rounds() == (3,)
    for n in (1, 2, 3):
        assert transcript.hashes(n) == everything.hashes(n)
        assert set(transcript.hashes(n)) == {"upload.0", "upload.1", "upload.2", "broadcast"}
    assert len({transcript.hashes(n)["upload.0"] for n in (1, 2, 3)}) == 3
    with pytest.raises(ConfigError, match="transcript=all"):
        transcript.traffic(2)
    with pytest.raises(ConfigError, match="round: 4"):
        transcript.traffic(4)


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), RunStopped("too few"), None])
@pytest.mark.parametrize("kept", [Kept.LAST, Kept.ALL])
def test_whatever_ends_the_run_its_last_round_and_student_are_there(tmp_path, kept, ending):
    transcript = Transcript.read(_recorded(tmp_path, kept, rounds=2, ending=ending))
    assert transcript.rounds()[-1] == 2
    assert transcript.student().arrays["w"].tolist() == [2, 2]
    assert transcript.traffic(2).uploads.keys() == {0, 1, 2}


def test_a_run_that_is_killed_leaves_its_last_round(tmp_path):
    folder = RunFolder.create(
        tmp_path, Scenario(clients=CLIENTS, models="mlp", transcript=Kept.LAST)
    )
    stream = folder.record(_result(n) for n in range(9))
    for n in range(4):
        next(stream)
        if n:
            assert Transcript.read(folder.path).rounds() == (n,)
    assert Transcript.read(folder.path).student() is None


def test_a_file_left_half_written_is_swept_away(tmp_path):
    folder = RunFolder.create(
        tmp_path, Scenario(clients=CLIENTS, models="mlp", transcript=Kept.LAST)
    )
    with folder:
        stream = folder.record(_result(n) for n in range(3))
        for _ in range(2):
            next(stream)
        for name in ("round-0002.part", "round-0002.safetensors"):
            (folder.path / "transcript" / name).write_bytes(b"half")
        next(stream)
    assert not list((folder.path / "transcript").glob("*.part"))
    assert Transcript.read(folder.path).rounds() == (2,)


def test_a_run_without_one_says_what_to_do(tmp_path):
    path = _recorded(tmp_path, Kept.NONE)
    assert not (path / "transcript").exists()
    with pytest.raises(ConfigError, match="kept no transcript; run it again with transcript=last"):
        Transcript.read(path)


def test_a_run_that_got_nowhere_says_so(tmp_path):
    path = _recorded(tmp_path, Kept.ALL, rounds=0, ending=KeyboardInterrupt())
    with pytest.raises(ConfigError, match="ended before its first round"):
        Transcript.read(path)


FILES = ("proxy", "round-0001", "round-0002", "student")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused(whole, name):
    path = whole / "transcript" / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"{name}.*damaged.*SHA-256"):
        Transcript.read(whole)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(whole, name):
    (whole / "transcript" / f"{name}.safetensors").unlink()
    with pytest.raises(ConfigError, match=f"{name}.*damaged.*missing"):
        Transcript.read(whole)


def test_a_file_changed_after_opening_is_refused(whole):
    transcript = Transcript.read(whole)
    rounds = whole / "transcript"
    shutil.copy(rounds / "round-0001.safetensors", rounds / "round-0002.safetensors")
    with pytest.raises(ConfigError, match="damaged"):
        transcript.traffic(2)


def test_uploads_that_are_not_those_of_the_index_are_refused(whole):
    folder = whole / "transcript"
    index = json.loads((folder / "index.json").read_text())
    shutil.copy(folder / "round-0001.safetensors", folder / "round-0002.safetensors")
    index["files"]["round-0002.safetensors"] = index["files"]["round-0001.safetensors"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"its messages are not those of index\.json"):
        Transcript.read(whole).traffic(2)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1}', "\x00"])
def test_a_damaged_index_is_refused(whole, text):
    (whole / "transcript" / "index.json").write_text(text)
    with pytest.raises(ConfigError, match=r"index\.json.*damaged"):
        Transcript.read(whole)


def test_a_newer_transcript_is_refused(whole):
    path = whole / "transcript" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    with pytest.raises(ConfigError, match="schema 2; this fedkd reads 1"):
        Transcript.read(whole)


def test_the_index_names_no_file_outside(whole):
    folder = whole / "transcript"
    shutil.move(folder / "proxy.safetensors", whole / "proxy.safetensors")
    text = (folder / "index.json").read_text().replace('"proxy.', '"../proxy.')
    (folder / "index.json").write_text(text)
    with pytest.raises(ConfigError, match="missing"):
        Transcript.read(whole)


def test_its_hash_names_the_whole_of_it(whole, tmp_path):
    transcript = Transcript.read(whole)
    index = (whole / "transcript" / "index.json").read_bytes()
    assert transcript.sha256 == hashlib.sha256(index).hexdigest()
    again = Transcript.read(_recorded(tmp_path / "again", Kept.ALL))
    assert again.sha256 == transcript.sha256, "the same messages, the same transcript"
    assert Transcript.read(_recorded(tmp_path / "b", Kept.ALL, rounds=2)).sha256 != again.sha256
    student = (whole / "transcript" / "student.safetensors").read_bytes()
    assert transcript.student_sha256() == hashlib.sha256(student).hexdigest()


@pytest.mark.parametrize(
    ("adversary", "client"),
    [
        (Adversary.CLIENT, None),
        (Adversary.CLIENT, CLIENTS),
        (Adversary.CLIENT, -1),
        (Adversary.SERVER, 0),
        (Adversary.STUDENT_HOLDER, 0),
    ],
)
def test_who_looks_must_make_sense(whole, adversary, client):
    with pytest.raises(ConfigError, match="client"):
        Transcript.read(whole).seen_by(adversary, client=client)
