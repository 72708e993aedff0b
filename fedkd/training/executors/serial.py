"""One client after the other, with plain modules and ``torch.optim``: the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from fedkd.training.executors.base import Executor, borrowing
from fedkd.training.jobs import Job
from fedkd.training.packing import Packing
from fedkd.training.steps import take_step


class Serial(Executor):
    """What every other executor is held against."""

    name: ClassVar[str] = "serial"

    def fits(self, module: nn.Module) -> bool:
        """Take any module."""
        return True

    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Build a module and an optimiser for each row and let them train it."""
        for row, job in zip(rows, jobs, strict=True):
            student = packing.student(row)
            student.module.train()
            with borrowing(job):
                for step in job.schedule():
                    take_step(student, job.loss(student.module, step))
                    row[-1] += 1
            packing.keep_buffers(row, student.module)
