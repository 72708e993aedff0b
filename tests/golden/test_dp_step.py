"""One step of DP-SGD, computed by hand."""

from __future__ import annotations

import math

import torch
from fedkd_clients.dp_training import Streams, dp_train_round
from torch import nn

from fedkd.privacy.events import Uncounted
from fedkd.privacy.settings import Privacy
from fedkd.rng import borrowed
from fedkd.scenario import Scenario
from fedkd.tasks import Classification
from fedkd.training.recipe import OptimizerName, Training
from fedkd.training.steps import Examples, Student, make_optimizer


def test_a_long_gradient_is_shortened_a_short_one_is_not_and_four_divides_them():
    # Zero weights give (1/2, 1/2), so the gradient of x with label 0 is (-1/2, 1/2) outer x: for
    # x = (3, 4) its norm is 5 sqrt(1/2) and clipped to 1 its first row is -(0.3, 0.4) sqrt(2); for
    # x = (0.3, 0.4) with label 1 the norm is below 1 and the first row is (0.15, 0.2).
    with borrowed(torch.Generator()):
        module = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(module.weight)
    recipe = Training(optimizer=OptimizerName.SGD, learning_rate=1.0, batch_size=4)
    event = dp_train_round(
        Student(module=module, optimizer=make_optimizer(module, recipe)),
        Examples(inputs=torch.tensor([[3.0, 4.0], [0.3, 0.4]]), labels=torch.tensor([0, 1])),
        None,
        scenario=Scenario(
            training=recipe,
            privacy=Privacy(noise_multiplier=0.0, clip_norm=1.0, sampling_probability=1.0),
        ),
        task=Classification(2),
        streams=Streams(**{name: torch.Generator() for name in Streams.__dataclass_fields__}),
    )
    first = torch.tensor([0.3 * math.sqrt(2) - 0.15, 0.4 * math.sqrt(2) - 0.2]) / 4
    torch.testing.assert_close(module.weight.detach(), torch.stack([first, -first]))
    assert event == Uncounted("DP-SGD without noise")
