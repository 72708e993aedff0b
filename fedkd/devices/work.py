"""How many floating-point operations a client's round takes, counted from its model's layers.

Layers count as their matrix products and convolutions, two operations for each multiplication and
addition; a training step takes three times a prediction, once forward and twice backward (Kaplan et
al. 2020, https://arxiv.org/abs/2001.08361, section 2.1). Filters, protectors and elementwise layers
are left out.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from fedkd.data.federation import client_rows, load
from fedkd.models.base import initialized, models
from fedkd.scenario import Scenario
from fedkd.training.recipe import Order
from fedkd.transport.messages import Request
from fedkd.types import Consensus, Knowledge, Upload

TRAINING = 3
"""A training step in predictions."""


def work(scenario: Scenario, request: Request, upload: Upload | None) -> float:
    """Return the operations of the round that ``upload`` came of."""
    arrays = load(scenario.data)
    forward = forward_flops(
        scenario.client_models()[request.client], arrays.input_shape, arrays.n_classes
    )
    n_private = len(client_rows(scenario.layout(), request.client).train)
    per_input = arrays.task.rows_per_input
    taught = _inputs(request.incoming, per_input)
    return forward * (
        TRAINING * examples_read(scenario, n_private, taught) + _inputs(upload, per_input)
    )


def examples_read(scenario: Scenario, n_private: int, n_taught: int) -> float:
    """Return how many inputs a client's training steps read in one round.

    As ``training.steps.Job`` orders them; with DP-SGD, private batches count as their mean.
    """
    recipe, size = scenario.training, scenario.training.batch_size
    own = float(recipe.local_epochs * n_private)
    if scenario.privacy.dp_sgd:
        steps = recipe.local_epochs * scenario.privacy.steps_per_epoch()
        own = steps * scenario.privacy.sampling_probability * n_private
    else:
        steps = recipe.local_epochs * -(-n_private // size)
    if not n_taught or not steps or recipe.order is Order.SEQUENTIAL:
        return own + n_taught
    n_steps = max(steps, -(-n_taught // size))
    if not scenario.privacy.dp_sgd:
        own = _cycled(n_private, size, n_steps)
    return own + _cycled(n_taught, size, n_steps)


def _cycled(n: int, size: int, n_steps: int) -> int:
    """Return the rows in the first batches of passes over ``n`` rows that follow one another."""
    passes, more = divmod(n_steps, -(-n // size))
    return passes * n + more * size


def _inputs(content: object, per_input: int) -> int:
    """Return how many inputs scores are about; parameters are about none."""
    if not isinstance(content, Consensus | Knowledge):
        return 0
    if per_input == 1:
        return len(content)
    return len(torch.unique(content.rows // per_input))


@lru_cache(maxsize=256)
def forward_flops(model: str, input_shape: tuple[int, ...], n_classes: int) -> int:
    """Return the operations of one prediction, for one input (all positions of a sequence)."""
    architecture = models.get(model)()
    module = initialized(architecture, input_shape, n_classes, rng=torch.Generator()).to("meta")
    kind = torch.int64 if architecture.tokens else torch.float32
    one = torch.zeros((1, *input_shape), dtype=kind, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        module(one)
    return counted.get_total_flops()
