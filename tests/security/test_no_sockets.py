"""A plain simulation opens no network socket: not to a server, not to loopback, not to look up."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

WATCHED = """
import json, sys

LOOKS_UP = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}

def watch(event, arguments):
    if event == "socket.__new__" and arguments[1] != 1:  # AF_UNIX stays on this machine
        told = int(arguments[1])
    elif event in ("socket.connect", "socket.bind") and not isinstance(arguments[1], (str, bytes)):
        told = str(arguments[1])
    elif event in LOOKS_UP or event == "urllib.Request":
        told = str(arguments[0])
    else:
        return
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps([event, told]) + chr(10))

sys.addaudithook(watch)
"""
SIMULATE = """
from fedkd.simulation import simulate
words = ["data=digits", "models=mlp", "clients=4", "rounds=2", "transcript=last", *sys.argv[3:]]
print(json.dumps(simulate(words, out=sys.argv[2])["failures"]))
"""
ANSWER = """
import socket
socket.create_connection(("127.0.0.1", 9), timeout=1)
"""


def _run(tmp_path, script: str, *words: str) -> tuple[subprocess.CompletedProcess[str], list]:
    seen = tmp_path / "sockets.jsonl"
    seen.touch()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED + script, seen, tmp_path / "runs", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, [json.loads(line) for line in seen.read_text().splitlines()]


@pytest.mark.parametrize(
    "words",
    [
        ("runtime.workers=1", "method=edgefd"),
        ("runtime.workers=2", "method=edgefd"),
        ("runtime.workers=2", "server_view=sums", "proxy=external", "server_model=mlp"),
    ],
    ids=["one process", "workers", "masked sums"],
)
@pytest.mark.slow
def test_a_simulation_opens_no_network_socket(tmp_path, words):
    """Audit hooks see every socket of this process and of the workers forked from it."""
    done, opened = _run(tmp_path, SIMULATE, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "0"
    assert opened == []


def test_the_watch_sees_a_socket(tmp_path):
    done, opened = _run(tmp_path, ANSWER)
    assert done.returncode != 0
    assert {event for event, _ in opened} >= {"socket.__new__", "socket.connect"}


def test_the_watch_sees_a_socket_of_a_forked_worker(tmp_path):
    child = """
import multiprocessing, socket
def work():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start(); worker.join()
"""
    _, opened = _run(tmp_path, child)
    assert ["socket.__new__", 2] in opened
