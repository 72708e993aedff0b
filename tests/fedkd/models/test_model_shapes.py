"""Models give logits of the right shape, from weights that only their stream decides."""

import pytest
import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.models.base import initialized
from fedkd.models.cnn_small import CNNSmall
from fedkd.models.cnn_wide import CNNWide
from fedkd.models.mlp import MLP
from fedkd.models.resnet8 import ResNet8

CONVOLUTIONAL = [CNNSmall(), CNNWide(), ResNet8()]
IMAGES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 9, 31)]


@pytest.mark.parametrize(
    ("model", "shape"),
    [(MLP(), (20,))] + [(model, shape) for model in [MLP(), *CONVOLUTIONAL] for shape in IMAGES],
)
def test_logits_have_one_column_a_class(model, shape):
    module = initialized(model, shape, 7, rng=torch.Generator().manual_seed(0))
    logits = module(torch.rand(3, *shape))
    assert logits.shape == (3, 7)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("model", [MLP(), *CONVOLUTIONAL])
def test_an_example_is_treated_alike_in_any_batch(model):
    module = initialized(model, (1, 28, 28), 10, rng=torch.Generator().manual_seed(0)).train()
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    images = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(module(images)[:1], module(images[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [MLP(), *CONVOLUTIONAL])
def test_weights_come_from_the_stream_and_from_no_global_seed(model):
    def weights(seed: int) -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(seed)
        return list(initialized(model, (1, 8, 8), 3, rng=rng).state_dict().values())

    torch.manual_seed(0)
    before, first = torch.get_rng_state(), weights(1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert all(map(torch.equal, first, weights(1)))
    assert not all(map(torch.equal, first, weights(2)))


@pytest.mark.parametrize("model", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(20,), (28, 28), (1, 7, 28), (1, 28, 7)])
def test_convolutional_models_point_to_the_mlp(model, shape):
    with pytest.raises(ConfigError, match="use models=mlp") as error:
        model.build(shape, 10)
    assert str(shape) in str(error.value)


def test_resnet8_has_eight_layers_on_its_longest_path():
    module = ResNet8().build((1, 28, 28), 10)
    layers = [p for p in module.modules() if isinstance(p, nn.Conv2d | nn.Linear)]
    shortcuts = [p for p in layers if isinstance(p, nn.Conv2d) and p.kernel_size == (1, 1)]
    assert len(layers) - len(shortcuts) == 8


def test_parameter_counts_by_hand():
    def count(model) -> int:
        return sum(p.numel() for p in model.build((1, 28, 28), 10).parameters())

    assert count(MLP(hidden=100)) == 785 * 100 + 101 * 10
    assert count(CNNSmall()) == 26 * 16 + 145 * 32 + (32 * 49 + 1) * 64 + 65 * 10
    assert count(CNNWide()) == 26 * 32 + 289 * 64 + (64 * 49 + 1) * 128 + 129 * 10
