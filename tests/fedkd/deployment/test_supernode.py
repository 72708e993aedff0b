"""A client on a device runs what is installed there, and nothing that a server sends."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.cli.build import build_fab_from_disk

from fedkd.compose import compose
from fedkd.deployment.flower import write_bundle
from fedkd.deployment.names import CODE_SENT
from fedkd.deployment.supernode import guarded, is_configuration_only
from fedkd.scenario import to_json


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("bundle") / "fedkd-run"
    write_bundle(folder, to_json(compose(["scenario=iid"])), run_id="0" * 32)
    return build_fab_from_disk(folder)


def packed(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


def unpacked(bundle: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_what_our_server_sends_is_configuration_only(ours: bytes):
    assert is_configuration_only(ours)
    assert is_configuration_only(packed(unpacked(ours)))


@pytest.mark.parametrize(
    "change",
    [
        {"evil.py": ""},
        {"fedkd_clients/app.py": ""},
        {"pyproject.toml": "[tool.flwr.app.components]\nclientapp = 'os:abort'"},
        {"pyproject.toml": "[tool.flwr.app.components"},
        {"pyproject.toml": ""},
        {"pyproject.toml": "tool = 1"},
    ],
    ids=str,
)
def test_what_holds_code_or_names_other_apps_is_not(ours: bytes, change: dict[str, str]):
    assert not is_configuration_only(packed(unpacked(ours) | change))


def test_what_is_no_archive_is_not(ours: bytes):
    assert not is_configuration_only(b"")
    assert not is_configuration_only(ours[: len(ours) // 2])


SENT = """
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from fedkd.deployment.supernode import guarded

@contextmanager
def connection():
    yield 1, None, None, None, lambda *which: SimpleNamespace(content=b"code"), None, None, None

with guarded(connection)() as calls:
    try:
        calls[4]("hash", 7)
    finally:
        print("went on")
"""


def test_a_bundle_with_code_ends_the_process_at_once():
    done = subprocess.run([sys.executable, "-c", SENT], capture_output=True, text=True, check=False)
    assert done.returncode == CODE_SENT
    assert done.stdout == ""


def test_everything_else_passes_as_it_is(ours: bytes):
    bundle = SimpleNamespace(content=ours)
    calls = tuple(object() for _ in range(4)), tuple(object() for _ in range(3))

    @contextmanager
    def connection(*words: object, **named: object):
        assert (words, named) == (("a",), {"b": 1})
        yield (*calls[0], lambda *which: bundle, *calls[1])

    with guarded(connection)("a", b=1) as found:
        assert (found[:4], found[5:]) == calls
        assert found[4]("hash", 7) is bundle


def test_flowers_process_takes_its_connection_from_where_we_look(tmp_path: Path):
    """Flower's options, on our process; and the name that is replaced is the one it calls."""
    words = [sys.executable, "-m", "fedkd.deployment.supernode", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "--auth-supernode-private-key" in done.stdout
    source = Path(sys.modules["flwr"].__file__).parent / "supernode" / "start_client_internal.py"
    assert source.read_text().count("    with http_request_response(") == 1
