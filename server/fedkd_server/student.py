"""The operator's own model, distilled from every round's consensus: what a server can ship."""

from __future__ import annotations

from torch import Tensor

from fedkd.data.federation import load
from fedkd.methods.base import CoDistillation
from fedkd.models.base import Model, initialized
from fedkd.rng import borrowed, torch_stream
from fedkd.scenario import Scenario
from fedkd.training.steps import Student, distil_pass, lesson_on, make_optimizer
from fedkd.transport.stored import Stored
from fedkd.types import Consensus, ProxySet, Update


class ServerStudent:
    """Sees the proxy set and the consensus, never a private example."""

    def __init__(self, model: Model, scenario: Scenario) -> None:
        arrays = load(scenario.data)
        rng = torch_stream(scenario.initialization_seed(), "initialisation")
        module = initialized(model, arrays.input_shape, arrays.n_classes, rng=rng)
        self._scenario = scenario
        self.student = Student(module=module, optimizer=make_optimizer(module, scenario.training))

    def parameters(self) -> Update:
        """Return the student's parameters; they change with the next round."""
        return Update(arrays=dict(self.student.module.state_dict()))

    def state(self) -> Stored:
        """Return parameters and optimizer, for a checkpoint."""
        tensors = {f"model.{name}": t for name, t in self.student.module.state_dict().items()}
        kept: dict[int, dict[str, Tensor]] = self.student.optimizer.state_dict()["state"]
        for place, slots in kept.items():
            tensors |= {f"optimizer.{place}.{name}": t for name, t in slots.items()}
        return Stored(tensors={n: t.detach().contiguous() for n, t in tensors.items()}, facts={})

    def recall(self, state: Stored) -> None:
        """Take back what :meth:`state` gave."""
        parameters: dict[str, Tensor] = {}
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.tensors.items():
            whose, _, rest = name.partition(".")
            if whose == "model":
                parameters[rest] = tensor
            else:
                place, _, slot = rest.partition(".")
                slots.setdefault(int(place), {})[slot] = tensor
        self.student.module.load_state_dict(parameters)
        groups = self.student.optimizer.state_dict()["param_groups"]
        self.student.optimizer.load_state_dict({"state": slots, "param_groups": groups})

    def learn(self, consensus: Consensus, proxy: ProxySet, *, round: int) -> None:
        """Take one pass over the consensus, as a client's distillation would."""
        method = self._scenario.method
        if not isinstance(method, CoDistillation) or not len(consensus):
            return
        lesson = lesson_on(
            consensus,
            proxy.inputs,
            distiller=method.distiller,
            rows_per_input=proxy.rows_per_input,
        )
        seed = self._scenario.training_seed()
        with borrowed(torch_stream(seed, "module", round=round)):
            rng = torch_stream(seed, "distillation", round=round)
            distil_pass(self.student, lesson, recipe=self._scenario.training, rng=rng)
