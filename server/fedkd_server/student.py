"""The operator's own model, distilled from every round's consensus: what a server can ship."""

from __future__ import annotations

from fedkd.data.federation import load
from fedkd.methods.base import CoDistillation
from fedkd.models.base import Model, initialized
from fedkd.rng import borrowed, torch_stream
from fedkd.scenario import Scenario
from fedkd.training.steps import Student, distil_pass, lesson_on, make_optimizer
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
