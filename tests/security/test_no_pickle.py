"""Nothing of ours is pickled: not in the code, and not in runs with workers and files."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("fedkd", "clients", "server", "scenarios")
    for path in (ROOT / folder).rglob("*.py")
)
MODULES = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"),
    *("jsonpickle", "torch.serialization", "multiprocessing.reduction", "ray.cloudpickle"),
}
CALLS = {
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("pandas.read_pickle", "pd.read_pickle", "eval", "exec", "compile", "__import__"),
    *("numpy.lib.format.read_array", "hydra.utils.instantiate", "hydra.utils.get_class"),
}
METHODS = {"to_pickle", "send_pyobj", "recv_pyobj", "__reduce__", "__reduce_ex__"}


def _dotted(node: ast.AST, known: dict[str, str]) -> str:
    """Return the full name of what is called, imports and their aliases resolved."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, known)
        return f"{before}.{node.attr}" if before else ""
    return ""


def found_in(text: str) -> list[str]:
    """Return what is forbidden in a source, with the line."""
    tree, known, found = ast.parse(text), dict[str, str](), list[str]()
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            for name in node.names:
                known[name.asname or name.name.split(".")[0]] = (name.asname and name.name) or (
                    name.name.split(".")[0]
                )
                if any(name.name == m or name.name.startswith(f"{m}.") for m in MODULES):
                    found.append(f"{node.lineno}: import {name.name}")
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                known[name.asname or name.name] = whole
                if any(part in MODULES for part in (node.module, whole)):
                    found.append(f"{node.lineno}: from {node.module} import {name.name}")
    for node in nodes:
        if isinstance(node, ast.Call):
            name = _dotted(node.func, known)
            if name in CALLS or name.rsplit(".", 1)[-1] in METHODS:
                found.append(f"{node.lineno}: {name}")
            for word in node.keywords:
                if word.arg == "allow_pickle" and not (
                    isinstance(word.value, ast.Constant) and word.value.value is False
                ):
                    found.append(f"{node.lineno}: allow_pickle")
            loads = name in {"numpy.load", "np.load"}
            if loads and "allow_pickle" not in {word.arg for word in node.keywords}:
                found.append(f"{node.lineno}: numpy.load that does not say allow_pickle=False")
        elif isinstance(node, ast.FunctionDef) and node.name in METHODS:
            found.append(f"{node.lineno}: def {node.name}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_pickles_and_evaluates_nothing(path):
    assert found_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import torch as t\nt.load('x')",
        "from torch import load as read\nread('x')",
        "import torch\ntorch.save({}, 'x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=yes)",
        "import numpy as np\nnp.load('x')",
        "from multiprocessing.reduction import ForkingPickler",
        "from multiprocessing import reduction",
        "import yaml\nyaml.load('x')",
        "eval('x')",
        "frame.to_pickle('x')",
        "import marshal",
        "import shelve",
        "from joblib import dump",
        "import cloudpickle",
        "class A:\n    def __reduce__(self): ...",
    ],
)
def test_it_would_be_found(text):
    assert found_in(text)


def test_what_is_allowed_is_not_found():
    harmless = (
        "import numpy as np\nnp.load('x', allow_pickle=False)\nimport pickletools\nmodel.eval()"
    )
    assert found_in(harmless) == []


WATCHED = """
import json, multiprocessing.connection, multiprocessing.reduction, pickle, sys, traceback

def told(name, real):
    def call(*words, **named):
        frames = [f.filename for f in traceback.extract_stack()][:-1]
        with open(sys.argv[1], "a") as file:
            file.write(json.dumps([name, frames[-6:]]) + chr(10))
        return real(*words, **named)
    return call

import _pickle
for module in (pickle, _pickle):
    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        real = getattr(module, name)
        if isinstance(real, type):
            def __init__(self, *words, _name=name, _real=real, **named):
                told(_name, _real.__init__)(self, *words, **named)
            setattr(module, name, type(name, (real,), {"__init__": __init__}))
        else:
            setattr(module, name, told(name, real))
for name in ("send", "recv"):
    kind = multiprocessing.connection.Connection
    setattr(kind, name, told(f"Connection.{name}", getattr(kind, name)))
for name in ("dumps", "loads"):
    kind = multiprocessing.reduction.ForkingPickler
    setattr(kind, name, staticmethod(told(f"ForkingPickler.{name}", getattr(kind, name))))
# What a pickled class would be found through, whoever kept the originals.
sys.addaudithook(lambda event, words: event == "pickle.find_class" and told("find_class", id)(0))
"""
SIMULATE = """
import torch
torch.save, torch.load = told("torch.save", torch.save), told("torch.load", torch.load)
from fedkd.reports.run.report import write_run_report
from fedkd.simulation import simulate
from fedkd.transcript import Transcript
from pathlib import Path
words = ["data=digits", "models=mlp", "clients=4", "rounds=2", "transcript=all", *sys.argv[3:]]
summary = simulate(words, out=sys.argv[2])
Transcript.read(Path(summary["run_dir"]))
write_run_report(Path(summary["run_dir"]))
print(summary["failures"])
"""
PICKLES = """
from multiprocessing import Pipe
a, b = Pipe()
a.send([1]); b.recv()
pickle.loads(pickle.dumps(ValueError("x")))
"""


def _run(tmp_path: Path, script: str, *words: str) -> list[tuple[str, list[str]]]:
    seen = tmp_path / "seen.jsonl"
    seen.touch()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED + script, seen, tmp_path / "runs", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in seen.read_text().splitlines()]


@pytest.mark.parametrize(
    "words",
    [
        ("runtime.workers=2", "server_model=mlp", "method=edgefd"),
        ("runtime.workers=2", "method=fedavg", "training.optimizer=sgd"),
        ("runtime.workers=1", "server_view=sums", "proxy=external"),
    ],
    ids=["knowledge", "parameters", "sums"],
)
@pytest.mark.slow
def test_a_run_pickles_nothing(tmp_path, words):
    """Requests, replies, harvests, proxy sets, transcripts, states: all of it crosses as bytes."""
    assert _run(tmp_path, SIMULATE, *words) == []


def test_the_watch_sees_pickling(tmp_path):
    seen = {name for name, _ in _run(tmp_path, PICKLES)}
    assert {"Connection.send", "Connection.recv", "dumps", "loads", "find_class"} <= seen
