"""How all that a client trains lies in one row of numbers: parameters, then optimiser state.

A row is what an engine can copy, stack and share between processes; a module whose parameters
are views of a row trains it in place.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fedkd.flat import Layout, Part
from fedkd.heap import Lender
from fedkd.training.recipe import OptimizerName, Training
from fedkd.training.steps import Student, make_optimizer

_SLOTS = {OptimizerName.ADAM: ("exp_avg", "exp_avg_sq"), OptimizerName.SGD: ("momentum_buffer",)}


class Packing:
    """The layout of one architecture's rows, made from one of its modules.

    Attributes:
        recipe: says which optimiser there is, and its step size.
        template: a module of the architecture, with whatever parameters; not to be changed.
        parts: the parameters, in the module's order, each once.
        layout: of the parameters, where they are all that torch keeps of the module; None where
            it has buffers, or parameters of several names (tied ones).
        buffers: what else the module keeps (running statistics), after the optimiser's state.
        size: numbers of one copy of the parameters.
        slots: names of the optimiser's state tensors, each as large as the parameters.
        width: numbers of a whole row: parameters, slots, buffers, and at last how often the
            optimiser stepped.
    """

    def __init__(self, module: nn.Module, recipe: Training) -> None:
        self.template, self.recipe = copy.deepcopy(module), recipe
        parameters = Layout.of((name, p.shape) for name, p in module.named_parameters())
        self.parts, self.size = parameters.parts, parameters.size
        plain = recipe.optimizer is OptimizerName.SGD and recipe.momentum == 0
        self.slots = () if plain else _SLOTS[recipe.optimizer]
        self.buffers: list[Part] = []
        start = self.size * (1 + len(self.slots))
        for name, buffer in module.named_buffers():
            self.buffers.append(Part(name=name, shape=tuple(buffer.shape), start=start))
            start += buffer.numel()
        self.width = start + 1
        whole = list(module.state_dict()) == [part.name for part in self.parts]
        self.layout = parameters if whole else None

    def room(self, n_clients: int, *, like: Tensor) -> Tensor:
        """Return rows to be filled, ``[clients, width]``, of the kind and device of ``like``."""
        return aligned_rows(n_clients, self.width, like=like)

    def write(self, row: Tensor, module: nn.Module) -> None:
        """Start a row: the module's parameters, an optimiser that has not stepped."""
        row[self.size :].zero_()
        with torch.no_grad():
            for part, parameter in zip(self.parts, module.parameters(), strict=True):
                part.of(row).copy_(parameter)
            self.keep_buffers(row, module)

    def keep_buffers(self, row: Tensor, module: nn.Module) -> None:
        """Copy a module's buffers into its row; its parameters are there already."""
        for part, buffer in zip(self.buffers, module.buffers(), strict=True):
            part.of(row).copy_(buffer)

    def values(self, rows: Tensor) -> Tensor:
        """Return the parameters of rows ``[..., width]``, a view ``[..., size]``."""
        return rows[..., : self.size]

    def moments(self, rows: Tensor) -> list[Tensor]:
        """Return the optimiser's slots of rows, views ``[..., size]``."""
        ends = [(1 + n) * self.size for n in range(len(self.slots))]
        return [rows[..., end : end + self.size] for end in ends]

    def named(self, row: Tensor) -> dict[str, Tensor]:
        """Return the parameters and buffers of one row by name; views."""
        return {part.name: part.of(row) for part in (*self.parts, *self.buffers)}

    def module(self, row: Tensor) -> nn.Module:
        """Return a new module whose parameters are views of ``row``."""
        fresh = copy.deepcopy(self.template)
        self.attach(fresh, row)
        return fresh

    def attach(self, module: nn.Module, row: Tensor) -> None:
        """Make the parameters of a module of this architecture views of ``row``."""
        for part, parameter in zip(self.parts, module.parameters(), strict=True):
            parameter.data = part.of(row)
        for part, buffer in zip(self.buffers, module.buffers(), strict=True):
            buffer.copy_(part.of(row))

    def student(self, row: Tensor) -> Student:
        """Return a module and an optimiser that train ``row`` in place, all but its step count."""
        module = self.module(row)
        optimizer = make_optimizer(module, self.recipe)
        self.rewind(optimizer, row)
        return Student(module=module, optimizer=optimizer)

    def rewind(self, optimizer: torch.optim.Optimizer, row: Tensor) -> None:
        """Give an optimiser of :meth:`student` the state that ``row`` holds."""
        steps = float(row[-1])
        if steps == 0:
            for moment in self.moments(row):
                moment.zero_()
        parameters = optimizer.param_groups[0]["params"]
        for part, parameter in zip(self.parts, parameters, strict=True):
            state = {
                name: part.of(moment)
                for name, moment in zip(self.slots, self.moments(row), strict=True)
            }
            if self.recipe.optimizer is OptimizerName.ADAM:
                state["step"] = torch.tensor(steps)
            optimizer.state[parameter] = state

    def count(self, row: Tensor, student: Student) -> None:
        """Write back how often a student of this row has stepped; serial training counts itself."""
        states = student.optimizer.state.values()
        told = [float(state["step"]) for state in states if "step" in state]
        row[-1] = max(told) if told else row[-1] + 1  # of frozen parameters it stays
        self.keep_buffers(row, student.module)


def aligned_rows(n: int, width: int, *, like: Tensor) -> Tensor:
    """Return rows to be filled, ``[n, width]``, each of which begins where memory is aligned.

    Matrix products into a row take half as long then, and round the same wherever it lies. Many
    rows are no part of the heap.
    """
    apart = _apart(width)
    size = n * apart * like.element_size()
    if size < _LARGE or not like.is_cpu:
        return like.new_empty(n, apart)[:, :width]
    block = torch.frombuffer(_LENDER.lend(size), dtype=like.dtype)
    return block.view(n, apart)[:, :width]


def _apart(width: int) -> int:
    """Return how many numbers after the one row the next one begins."""
    return -(-width // _ALIGNED) * _ALIGNED


_ALIGNED = 16
"""Numbers in what a processor reads at once, of four bytes each."""
_LARGE, _LENDER = 1 << 20, Lender()
"""Bytes from which a block is none of the heap's, and who has it then."""
