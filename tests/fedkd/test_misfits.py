"""What does not go with text, or with images, is refused when a scenario is composed."""

from __future__ import annotations

import pytest

from fedkd.compose import compose
from fedkd.errors import ConfigError

TEXT = ("data=gutenberg_mini", "partition=natural", "clients=4", "models=gru_char", "method=fedmd")


def refused(overrides, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        compose(overrides)


@pytest.mark.parametrize("method", ["edgefd", "edgefd_soft", "selective_fd", "random_filter"])
def test_filters_that_measure_distances_are_refused(method):
    refused([*TEXT, f"method={method}"], r"method.filter: .* measures distances .* method=fedmd")


def test_filters_that_need_a_class_are_refused():
    refused([*TEXT, "method=oracle_filter"], r"'true_classes' goes by the class .* method=fedmd")


def test_a_scorer_that_measures_distances_is_refused():
    refused(
        [*TEXT, "protector={name: swing, scorer: density}"], r"protector: its scorer .* detector"
    )


@pytest.mark.parametrize("method", ["fedmd", "own_only", "fedavg", "local", "centralised"])
def test_what_measures_nothing_is_fine(method):
    assert compose([*TEXT, f"method={method}"]).clients == 4


@pytest.mark.parametrize("model", ["mlp", "cnn_small", "resnet8"])
def test_a_model_of_numbers_reads_no_text(model):
    refused([*TEXT, f"models={model}"], rf"models: '{model}' reads images or tables.*use gru_char")
    refused(
        [*TEXT, f"models={{gru_char: 3, {model}: 1}}"], rf"models: '{model}' reads .*use gru_char"
    )
    refused([*TEXT, f"server_model={model}"], rf"server_model: '{model}' reads .*use gru_char")


@pytest.mark.parametrize("model", ["gru_char", "transformer_char"])
def test_a_model_of_tokens_reads_no_images(model):
    refused([f"models={model}"], rf"models: '{model}' reads sequences of tokens.*use cnn_small")
    refused([f"server_model={model}"], rf"server_model: '{model}' reads sequences")
    assert compose([*TEXT, f"models={model}", f"server_model={model}"]).clients == 4
