"""Clients of a simulation on the machines of a Ray cluster, some groups of them in each actor.

Actors keep their clients from round to round, and every client's state in a file besides. Of a
machine that is lost the clients fail one round; an actor elsewhere finds them in their files.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError, RunStopped
from fedkd.methods.base import Method
from fedkd.transport.batch import snapshot
from fedkd.transport.frame_grid import FrameGrid
from fedkd.transport.frames import Blob, Frame, unpack
from fedkd.transport.home import Home
from fedkd.transport.ray_cluster import Cluster
from fedkd.transport.ray_host import SEAL, Host
from fedkd.transport.stored import stored_proxy, to_bytes
from fedkd.types import ProxySet

PATIENCE_S = 300
"""Seconds in which an actor has to be placed and open; it imports torch first."""
LOOK_AGAIN_S = 15
"""Seconds after which its place is thought over: the machine with the CPU for it may be lost."""
SHARED_FROM = 64 * 1024
"""Bytes from which on a byte string goes through Ray's object store, once for all actors."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What actors are made of.

    Attributes:
        home: where their clients live; each actor has a room of its own for them.
        fleet: names what makes the clients.
        intake: names what makes the server's side of taking in uploads.
        n_workers: actors.
        n_gpus: of each actor.
    """

    home: Home
    fleet: str
    intake: str
    n_workers: int
    n_gpus: int = 0


class RayGrid(FrameGrid["RayWorker"]):
    """Groups of clients in actors, which end with the grid.

    Args:
        cluster: where actors are placed; it is left with the grid.
        plan: what actors are made of, and how many.
        method: knows how folded uploads become bytes.
        n_clients: clients of the run.

    Raises:
        ConfigError: an actor cannot make its clients, or finds no place.
    """

    def __init__(self, cluster: Cluster, plan: Plan, *, method: Method, n_clients: int) -> None:
        super().__init__(method=method, n_clients=n_clients)
        self._cluster, self._plan = cluster, plan
        self._shared: dict[int, tuple[Blob, Any]] = {}
        self._sealed = secrets.token_hex(16)
        (Path(plan.home.states) / SEAL).write_text(self._sealed, encoding="utf-8")
        self._workers = [self._made(n, n_cpus=1) for n in range(plan.n_workers)]
        try:
            for n, worker in enumerate(self._workers):
                self._opened(n, worker)
        except RunStopped as error:
            for worker in self._workers:
                worker.close()
            raise ConfigError(str(error)) from None

    def restore(self, folder: Path, proxy: ProxySet | None) -> None:
        """Give clients back what a checkpoint's folder holds, before any is asked.

        Raises:
            RunStopped: an actor died over it.
        """
        blobs: list[Blob] = [] if proxy is None else [to_bytes({"proxy": stored_proxy(proxy)})]
        frames: dict[int, Frame] = {}
        for n in range(len(self._workers)):
            found = [snapshot(folder, group) for group in self._groups(n)]
            paths = [str(path) for path in found if path.exists()]
            frames[n] = ({"do": "restore", "paths": paths}, blobs)
        if any(answer is None for answer in self._answers(frames).values()):
            raise RunStopped(f"a worker died while it read the checkpoint {str(folder)!r}")

    def process_ids(self) -> list[int]:
        """Return the actors' process ids, each on its machine."""
        return [worker.process_id for worker in self._workers]

    def close(self) -> None:
        """End all actors and leave the cluster."""
        super().close()
        self._cluster.close()

    def _start(self, n: int) -> RayWorker:
        """Return an actor in the place of one that died. It is placed even where no CPU is free."""
        self._workers[n] = self._made(n, n_cpus=0)
        self._opened(n, self._workers[n])
        return self._workers[n]

    def _opened(self, n: int, worker: RayWorker) -> None:
        """Wait for an actor, or for another in its place: Ray knows of a lost machine late.

        Raises:
            RunStopped: no machine can host it.
        """
        until = time.monotonic() + PATIENCE_S
        while not worker.is_open(LOOK_AGAIN_S):
            if time.monotonic() > until:
                raise RunStopped(
                    f"Ray found no place for a worker in {PATIENCE_S} s; ask for fewer with "
                    "runtime.workers, or add machines to the cluster"
                )
            if worker.died or self._cluster.cpus() < len(self._workers):
                worker.close()
                worker = self._workers[n] = self._made(n, n_cpus=0)

    def _made(self, n: int, *, n_cpus: int) -> RayWorker:
        plan, ray = self._plan, self._cluster.ray
        kind = ray.remote(Host).options(
            num_cpus=n_cpus,
            num_gpus=plan.n_gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )
        facts = {
            "home": plan.home.to_json(),
            "sealed": self._sealed,
            "fleet": plan.fleet,
            "intake": plan.intake,
            "room": f"worker-{n}",
        }
        return RayWorker(ray, kind.remote(), json.dumps(facts).encode(), self._share)

    def _ready(self, waiting: Sequence[RayWorker]) -> Sequence[RayWorker]:
        self._shared.clear()  # all is sent
        ready, _ = self._cluster.ray.wait([worker.pending for worker in waiting])
        return [worker for worker in waiting if worker.pending in ready]

    def _share(self, blob: Blob) -> Any:
        """Return a large byte string's place in the object store, the same for all actors."""
        if len(blob) < SHARED_FROM:
            return bytes(blob)
        if id(blob) not in self._shared:
            self._shared[id(blob)] = (blob, self._cluster.ray.put(bytes(blob)))
        return self._shared[id(blob)][1]


class RayWorker:
    """An actor somewhere in the cluster.

    Attributes:
        pending: Ray's promise of the next answer.
        process_id: on its machine, once it is open.
        died: whether it did, before it was.
    """

    def __init__(self, ray: Any, actor: Any, facts: bytes, share: Callable[[Blob], Any]) -> None:
        self._ray, self._actor, self._share = ray, actor, share
        self.pending = actor.open.remote(facts)
        self.process_id, self.died = 0, False

    def is_open(self, seconds: float) -> bool:
        """Wait a while for the actor; if it died over it, return False at once and say so.

        Raises:
            RunStopped: it cannot host its clients; says why.
        """
        try:
            told = json.loads(self._ray.get(self.pending, timeout=seconds))
        except self._ray.exceptions.GetTimeoutError:
            return False
        except self._ray.exceptions.RayError:
            self.died = True
            time.sleep(1)
            return False
        if "error" in told:
            raise RunStopped(
                f"a worker on Ray cannot host its clients ({told['error']}); all machines need "
                "the same fedkd, its data, and --out on a file system that all of them share"
            )
        self.process_id = int(told["process"])
        return True

    def send(self, frame: Frame) -> bool:
        """Hand the frame over; an actor that is dead says so when its answer is asked for."""
        header, blobs = frame
        packed = [self._share(blob) for blob in blobs]
        self.pending = self._actor.answer.remote(json.dumps(header).encode(), *packed)
        return True

    def receive(self) -> Frame | None:
        """Return the answer; None when the actor died, or its machine with the answer."""
        try:
            return unpack(self._ray.get(self.pending))
        except self._ray.exceptions.RayError:
            return None

    def close(self) -> None:
        """End the actor at once; what it had to keep is in files."""
        self._ray.kill(self._actor, no_restart=True)
