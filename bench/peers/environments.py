"""An environment of its own for every peer, with pinned versions, made when it is first needed.

A peer that cannot be installed unmodified on this machine is skipped, and the reason is reported.

    python -m bench.peers.environments [--envs FOLDER] [PEER ...]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==" + importlib.metadata.version("torch").split("+")[0]
"""Torch peers get the torch that fedkd runs on here."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What a peer needs.

    Attributes:
        packages: as pip names them, from PyPI, unmodified.
        shown: the packages whose versions are reported.
        check: a statement that fails where the peer was installed but does not run.
        python: the least Python it installs on.
        hint: what explains a failure that is to be expected on some machines.
    """

    packages: tuple[str, ...]
    shown: tuple[str, ...]
    check: str
    python: tuple[int, int] = (3, 11)
    hint: str = ""


PEERS = {
    "flower": Peer(
        packages=("flwr[simulation]==1.41.0", TORCH, "numpy"),
        shown=("flwr", "ray", "torch"),
        check="import ray, torch; from flwr.simulation import run_simulation",
    ),
    "pfl": Peer(
        packages=("pfl[pytorch]==0.6.0", TORCH),
        shown=("pfl", "torch"),
        check="import pfl.model.pytorch, pfl.aggregate.simulate",
    ),
    # Frozen in 2023: newer jax, optax, haiku, chex or numpy do not run it.
    "fedjax": Peer(
        packages=(
            "fedjax==0.0.17",
            "jax==0.4.25",
            "jaxlib==0.4.25",
            "optax==0.2.2",
            "dm-haiku==0.0.12",
            "chex==0.1.86",
            "numpy<2",
        ),
        shown=("fedjax", "jax"),
        check="import fedjax; from fedjax.algorithms import fed_avg",
    ),
    # It imports torchvision, pandas and pynvml merely to start.
    "fedlab": Peer(
        packages=("fedlab==1.3.0", TORCH, "torchvision"),
        shown=("fedlab", "torch"),
        check="import fedlab.contrib.algorithm.basic_client",
        hint="it needs torchvision, whose builds on PyPI are for CUDA and fail beside a CPU torch",
    ),
    # Every release needs Python 3.12 or newer, the current one 3.14.
    "blazefl": Peer(
        packages=("blazefl[contrib]==3.0.0", TORCH, "numpy"),
        shown=("blazefl", "torch"),
        check="import blazefl.contrib",
        python=(3, 14),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A peer's interpreter and versions, or why there is none."""

    python: Path | None = None
    versions: dict[str, str] | None = None
    reason: str = ""


def default_folder() -> Path:
    """Return where environments are kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "fedkd" / "bench"


def environment(name: str, *, envs: Path) -> Environment:
    """Return the peer's environment under ``envs``; installs it if it is not there yet.

    What failed is not tried again until its folder is removed.
    """
    peer, folder = PEERS[name], envs / name
    base = _interpreter(peer.python)
    if base is None:
        need = ".".join(map(str, peer.python))
        have = ".".join(map(str, sys.version_info[:2]))
        return Environment(reason=f"{peer.packages[0]} needs Python {need}; this is {have}")
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    wanted = list(peer.packages)
    told = json.loads(stamp.read_text()) if stamp.is_file() else {}
    if told.get("packages") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        told = {"packages": wanted, "reason": _install(peer, base, folder)}
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(told))
    if told["reason"]:
        return Environment(reason=told["reason"])
    return Environment(python=python, versions=versions(python, peer.shown))


def _install(peer: Peer, base: str, folder: Path) -> str:
    """Make the environment; return why it failed, or nothing."""
    python = str(folder / "bin" / "python")
    commands = (
        [base, "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "-q", *peer.packages],
        [python, "-c", peer.check],
    )
    for command in commands:
        if reason := _failure(command):
            return f"{reason} ({peer.hint})" if peer.hint else reason
    return ""


def versions(python: Path | str, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the installed versions of some packages, as another interpreter sees them."""
    done = subprocess.run(
        [str(python), "-c", _VERSIONS, *packages], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def _interpreter(least: tuple[int, int]) -> str | None:
    if sys.version_info[:2] >= least:
        return sys.executable
    return shutil.which("python{}.{}".format(*least))


def _failure(command: list[str]) -> str:
    """Run a command; return the last thing it said if it failed, and nothing if it did not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in said if "error" in line.lower()] or said
    return errors[-1] if errors else f"{command[0]} ended with {done.returncode}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=Path, default=default_folder())
    parser.add_argument("peers", nargs="*", default=list(PEERS))
    read = parser.parse_args()
    for name in read.peers:
        found = environment(name, envs=read.envs)
        print(f"{name:8} {found.versions or 'skipped: ' + found.reason}", flush=True)


if __name__ == "__main__":
    main()
