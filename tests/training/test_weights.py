"""Weights of one moment told from those of another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuronxa_callback.training.weights import Weights

pytestmark = pytest.mark.unit


def model(layers: int = 40) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(30, 30) for _ in range(layers)])


def test_the_same_weights_are_known_again_and_others_are_not() -> None:
    net = model()
    before = Weights.of(net)
    assert before.are_in(net)
    for parameter in net.parameters():
        parameter.data = parameter.data * 0.999
    assert not before.are_in(net)


def test_one_changed_tensor_of_few_is_seen() -> None:
    net = model(layers=4)
    before = Weights.of(net)
    list(net.parameters())[-1].data.add_(1e-6)
    assert not before.are_in(net)


def test_diverged_frozen_and_resharded_weights_are_no_others() -> None:
    net = model(layers=2)
    first, *_, last = net.parameters()
    first.data.fill_(float("nan"))
    before = Weights.of(net)
    last.requires_grad_(False)
    assert before.are_in(net)
    last.data = last.data[:0]
    assert before.are_in(net)


def test_another_data_type_is_another_model() -> None:
    net = model(layers=2)
    before = Weights.of(net)
    assert not before.are_in(net.half())


def test_a_model_without_trained_or_real_parameters_is_taken_as_it_is() -> None:
    for net in (model(2).requires_grad_(False), nn.Linear(2, 2, device="meta")):
        assert Weights.of(net).values == ()
        assert Weights.of(net).are_in(net)
