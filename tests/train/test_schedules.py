"""Rates that fall in stairs and exponentially, and RMSProp as TensorFlow writes it."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import toy
from train.core import optim
from train.core.schedules import schedule


def options(**changes):
    section = toy.config().optim
    section.update(changes)
    return section


def test_stairs_fall_by_ten_after_each_third():
    rate = schedule(options(lr=0.1, schedule="stairs", end=0.01, warmup=0), 90)
    found = [float(rate(step)) for step in (0, 29, 31, 59, 61, 89)]
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_exponential_is_efficientnets_on_average():
    epoch = 10
    rate = schedule(
        options(lr=0.256, schedule="exponential", end=0.97 ** (345 / 2.4), warmup=50), 3500
    )
    for epochs in (0, 24, 240, 345):
        wanted = 0.256 * 0.97 ** (epochs / 2.4)
        assert float(rate(50 + epochs * epoch)) == pytest.approx(wanted, rel=1e-4)
    assert float(rate(24)) == pytest.approx(0.128)


def test_rmsprop_by_hand():
    c = options(name="rmsprop", lr=0.5, schedule="constant", warmup=0, b1=0.9, b2=0.8, eps=1e-3,
                weight_decay=0.1, clip=0.0)  # fmt: skip
    params = {"kernel": jnp.array([1.0, -2.0])}
    tx, _ = optim.build(c, 10, params)
    state, value, mean, momentum = tx.init(params), np.array([1.0, -2.0]), 1.0, 0.0
    for gradient in (np.array([0.3, 0.1]), np.array([-0.2, 0.5])):
        updates, state = tx.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
        g = gradient + 0.1 * value
        mean = 0.8 * mean + 0.2 * g**2
        momentum = 0.9 * momentum + g / np.sqrt(mean + 1e-3)
        value = value - 0.5 * momentum
        np.testing.assert_allclose(params["kernel"], value, rtol=1e-5)
