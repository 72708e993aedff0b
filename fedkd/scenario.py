"""A scenario says everything about a run; this file is its schema, its checks and its hash.

A deployed client reads the resolved scenario as JSON; ``compose.py`` makes one from a file and
overrides, and only that needs Hydra.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from fedkd.adversaries.base import AdversaryClient, members, unfit
from fedkd.canaries.settings import Canaries
from fedkd.data.datasets.base import DataSet
from fedkd.data.datasets.fashion_mini import FashionMini
from fedkd.data.federation import Layout
from fedkd.data.partitioners.base import Partitioner
from fedkd.data.partitioners.pathological import Pathological
from fedkd.data.proxies.base import Proxy
from fedkd.data.proxies.pooled import Pooled
from fedkd.devices.base import Device
from fedkd.errors import ConfigError
from fedkd.faults.checks import unbearable
from fedkd.faults.settings import Faults, LatePolicy
from fedkd.methods.base import CoDistillation, Holding, MessageKind, Method
from fedkd.methods.edgefd import EdgeFD
from fedkd.misfits import misfits
from fedkd.models.base import Model, models
from fedkd.privacy.preconditions import refusals
from fedkd.privacy.settings import Privacy, ServerView
from fedkd.protectors.base import Protector
from fedkd.protectors.none import NoProtection
from fedkd.registry import build, describe
from fedkd.rng import torch_stream
from fedkd.runtime import Kept, Runtime, Seeds
from fedkd.training.recipe import Training
from fedkd.types import SCHEMA, ProxySource, Space, Wire


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything about a run, resolved and checked.

    Attributes:
        name: the scenario file it came from.
        description: one line for people.
        seed: root of every random stream that ``seeds`` does not set.
        rounds: exchanges between clients and server.
        clients: how many there are.
        cohort: how many take part in a round; None means all.
        data: where labelled examples come from.
        partition: how they are shared out.
        proxy: where the proxy set comes from.
        models: one architecture for all clients, or how many clients use which.
        method: how they learn together.
        protector: what is done to knowledge before it leaves a client.
        privacy: the budget, and DP-SGD.
        wire: number format of the scores that travel, both ways; shorter ones round them.
        server_view: whether the server sees every upload or only masked sums.
        n_min: with masked sums, a row that fewer clients kept is never summed.
        training: local training, the same for every method.
        server_model: an architecture that the server distils from the consensus, or None.
        attack: what dishonest clients do, and which clients they are; None has none.
        canaries: planted examples with secrets, for audits; None plants nothing.
        transcript: which rounds' messages are kept in the run folder, for audits.
        local_test_fraction: share of a client's examples kept for its own test.
        measure_every: rounds between measurements of the client models (the last one always).
        min_completion: the run stops when a smaller share of a cohort answers.
        quorum: the run stops when a round has fewer usable uploads.
        deadline_s: seconds that the server waits for a round's uploads, virtual ones in a
            simulation; None waits for all.
        late_policy: what becomes of an upload that came later.
        faults: what goes wrong in a simulation; None for nothing.
        devices: what the clients of a simulation run on, by their shares; none takes no time.
        seeds: separate seeds.
        runtime: speed knobs.
    """

    name: str = "custom"
    description: str = ""
    seed: Annotated[int, Ge(0)] = 0
    rounds: Annotated[int, Ge(1)] = 20
    clients: Annotated[int, Ge(1)] = 10
    cohort: Annotated[int, Ge(1)] | None = None
    data: DataSet = field(default_factory=FashionMini)
    partition: Partitioner = field(default_factory=Pathological)
    proxy: Proxy = field(default_factory=Pooled)
    models: str | dict[str, int] = "cnn_small"
    method: Method = field(default_factory=EdgeFD)
    protector: Protector = field(default_factory=NoProtection)
    privacy: Privacy = field(default_factory=Privacy)
    wire: Wire = Wire.FLOAT32
    server_view: ServerView = ServerView.UPLOADS
    n_min: Annotated[int, Ge(2)] = 3
    training: Training = field(default_factory=Training)
    server_model: Model | None = None
    attack: AdversaryClient | None = None
    canaries: Canaries | None = None
    transcript: Kept = Kept.NONE
    local_test_fraction: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    measure_every: Annotated[int, Ge(1)] = 1
    min_completion: Annotated[float, Interval(gt=0, le=1)] = 0.5
    quorum: Annotated[int, Ge(1)] = 1
    deadline_s: Annotated[float, Gt(0)] | None = None
    late_policy: LatePolicy = LatePolicy.DROP
    faults: Faults | None = None
    devices: tuple[Device, ...] = ()
    seeds: Seeds = field(default_factory=Seeds)
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        """Refuse mixes that cannot run, before anything is trained."""
        self._check_models()
        self._check_parts()
        self._check_canaries()
        attack = unfit(self.attack, n_clients=self.clients, message=self.method.message)
        for refusal in (*misfits(self), *refusals(self), *attack, *unbearable(self)):
            raise ConfigError(refusal)
        if self.cohort is not None and self.cohort > self.clients:
            raise ConfigError(f"cohort: {self.cohort} is more than clients={self.clients}")
        if self.method.message is MessageKind.UPDATE and len(set(self.client_models())) > 1:
            raise ConfigError(
                f"models: {self.models!r} mixes architectures, whose parameters cannot be "
                "averaged; give one model, or a method that exchanges knowledge"
            )

    def _check_parts(self) -> None:
        method, speaks = self.method, self.method.message is MessageKind.KNOWLEDGE
        if isinstance(method, CoDistillation):
            space = method.distiller.space
            if space not in method.aggregator.spaces:
                raise ConfigError(
                    f"method: the distiller reads {space.value}, which the aggregator "
                    f"{describe(method.aggregator)['name']!r} cannot average; change one of them"
                )
            if space is Space.LOGITS and not self.protector.keeps_logits:
                raise ConfigError(
                    f"protector: {describe(self.protector)['name']!r} makes probabilities, but the "
                    "method's distiller reads logits; use the distiller kl, or another protector"
                )
            self._check_protector(method)
        if self.server_model is not None and not speaks:
            raise ConfigError("server_model: this method makes no consensus to distil; use null")
        if not isinstance(self.protector, NoProtection) and not speaks:
            raise ConfigError("protector: this method sends no knowledge to protect; use none")
        if self.wire is not Wire.FLOAT32 and not speaks:
            raise ConfigError("wire: this method sends no scores to shorten; use float32")

    def _check_protector(self, method: CoDistillation) -> None:
        temperature = method.distiller.teacher_temperature
        try:
            self.protector.check(temperature=temperature)
        except ConfigError as error:
            raise ConfigError(f"protector: {error}") from None
        if self.protector.row_temperatures(temperature=temperature) is None:
            return
        if not method.aggregator.reads_row_temperatures:
            raise ConfigError(
                f"protector: the aggregator {describe(method.aggregator)['name']!r} adds no noise "
                "to temperatures told row by row; use server_temperature=agreed, or the "
                "aggregator gnmax"
            )
        if self.server_view is ServerView.SUMS:
            raise ConfigError(
                "protector: temperatures told row by row would leave beside the masked sums; use "
                "server_temperature=agreed, or server_view=uploads"
            )

    def _check_canaries(self) -> None:
        if self.canaries is None or not self.canaries.in_proxy:
            return
        if self.proxy.source is ProxySource.EXTERNAL and self.canaries.family.secret_in_input:
            raise ConfigError(
                "canaries.in_proxy: true, but nobody contributes to this proxy set, and a server "
                "that knew such an input would know the secret; use proxy=pooled, "
                "canaries.in_proxy=false or canaries.family=secret_label"
            )

    def _check_models(self) -> None:
        counts = {self.models: self.clients} if isinstance(self.models, str) else self.models
        for name, count in counts.items():
            models.get(name, path="models")
            if count < 0:
                raise ConfigError(f"models.{name}: {count} clients; give a count of 0 or more")
        if sum(counts.values()) != self.clients:
            raise ConfigError(
                f"models: {self.models!r} assigns {sum(counts.values())} clients, but "
                f"clients={self.clients}; make them agree"
            )

    def client_models(self) -> list[str]:
        """Return the architecture of every client, by client id; architectures in their order."""
        if isinstance(self.models, str):
            return [self.models] * self.clients
        return [name for name, count in sorted(self.models.items()) for _ in range(count)]

    def asked(self, n_inputs: int, *, round: int) -> Tensor | None:
        """Return which proxy inputs a round asks about, bool ``[n_inputs]``; None for all.

        Drawn from a public stream, so that both sides know it without a message.
        """
        wanted = self.proxy.rows_per_round
        if wanted is None or wanted >= n_inputs:
            return None
        rng = torch_stream(self.training_seed(), "proxy rows", round=round)
        asked = torch.zeros(n_inputs, dtype=torch.bool)
        asked[torch.randperm(n_inputs, generator=rng)[:wanted]] = True
        return asked

    def participants(self) -> list[int]:
        """Return the client ids that train: one for controls that put everything in one place."""
        return list(range(self.clients if self.method.holding is Holding.OWN else 1))

    def attackers(self) -> frozenset[int]:
        """Return the ids of the adversary clients."""
        return members(self.attack, n_clients=self.clients)

    def layout(self) -> Layout:
        """Return how the data is laid out among clients; the same on every machine."""
        return Layout(
            data=self.data,
            partition=self.partition,
            proxy=self.proxy,
            n_clients=self.clients,
            seed=self.partition_seed(),
            local_test_fraction=self.local_test_fraction,
            canaries=self.canaries,
        )

    def partition_seed(self) -> int:
        """Return the seed of partitions and proxy rows."""
        return self.seed if self.seeds.partition is None else self.seeds.partition

    def initialization_seed(self) -> int:
        """Return the seed of initial weights."""
        return self.seed if self.seeds.initialization is None else self.seeds.initialization

    def noise_seed(self) -> int | None:
        """Return the seed of privacy noise, None where it must be secret."""
        if self.seeds.noise == "secret":
            return None
        return self.training_seed() if self.seeds.noise is None else self.seeds.noise

    def training_seed(self) -> int:
        """Return the seed of everything that happens after round 1 starts."""
        return self.seed if self.seeds.training is None else self.seeds.training


def to_json(scenario: Scenario) -> str:
    """Return the resolved scenario as canonical JSON, the form it is sent and stored in."""
    return json.dumps({"schema": SCHEMA, **describe(scenario)}, sort_keys=True)


def from_json(text: str) -> Scenario:
    """Read what :func:`to_json` wrote; an empty text is the default scenario.

    Raises:
        ConfigError: the text is newer than this fedkd, damaged or invalid.
    """
    if not text:
        return Scenario()
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"the stored scenario is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"the stored scenario is {text[:40]!r}, not a JSON object")
    schema = tree.pop("schema", None)
    if schema != SCHEMA:
        raise ConfigError(f"scenario schema {schema!r}; this fedkd reads {SCHEMA}, update it")
    return build(Scenario, tree, path="")


def scenario_hash(scenario: Scenario) -> str:
    """Return 16 hex digits that name everything that can change results (not ``runtime``)."""
    tree = describe(scenario)
    for key in ("name", "description", "runtime"):
        del tree[key]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
