"""EfficientNets: padding, gates, stochastic depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import families
from models.build import build
from models.convolution import drop_path, pads
from models.efficientnet import gates, inner
from models.options import Options
from tests.models import conv


@pytest.mark.parametrize("size", [7, 8, 13, 14])
@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 2), (7, 2), (5, 1), (3, 3)])
def test_the_same_padding_is_that_of_the_compiler(size, kernel, stride):
    want = jax.lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")[0]
    assert pads("same", size, kernel, stride) == tuple(want)


def test_rules_of_padding():
    assert pads("symmetric", 8, 3, 2) == (1, 1) and pads("kernel", 8, 3, 2) == (0, 1)
    assert pads("kernel", 8, 5, 2) == pads("same", 8, 5, 2) == (1, 2)
    assert pads("kernel", 7, 5, 2) == (1, 2) and pads("same", 7, 5, 2) == (2, 2)
    assert {pads(rule, 9, 5, 1) for rule in ("kernel", "same", "symmetric")} == {(2, 2)}


def test_paddings_move_even_sizes_apart_and_an_image_of_odd_size_is_rounded_up():
    _, module, variables = conv.model("efficientnet", padding="same")
    other = build(conv.options("efficientnet", padding="symmetric"))
    kernel = build(conv.options("efficientnet", padding="kernel"))
    run = lambda m, side: m.apply(variables, conv.images(2, side), method="features")[0]
    same, symmetric, theirs = (
        jax.jit(functools.partial(run, m, 24))() for m in (module, other, kernel)
    )
    np.testing.assert_allclose(same, theirs, atol=1e-5)
    assert same.shape == symmetric.shape == (2, 6, 6, 16)
    assert float(jnp.abs(same - symmetric).max()) > 1e-2
    assert jax.eval_shape(lambda: run(module, 25)).shape == (2, 7, 7, 16)
    assert jax.eval_shape(lambda: run(kernel, 25)).shape == (2, 6, 6, 16)


def test_inner_channels_and_gates_round_as_each_library_does():
    o = conv.options("efficientnet", expands=(1, 6))
    timm = o.replace(expand_unit=8, squeeze_nearest=True)
    assert inner(o, 10, 0) == inner(timm, 10, 0) == 10
    assert inner(o, 10, 1) == 60 and inner(timm, 10, 1) == 64
    assert gates(o, 10, 1) == 2 and gates(timm, 10, 1) == 3
    assert gates(o, 3, 0) == 1


def test_stochastic_depth_rises_with_the_block_and_drops_whole_rows():
    x = jnp.ones((2000, 3))
    y = drop_path(x, 0.25, jax.random.key(0))
    rows = np.unique(np.asarray(y), axis=0)
    np.testing.assert_allclose(rows, [[0, 0, 0], [4 / 3] * 3], rtol=1e-6)
    assert abs(float(y.mean()) - 1) < 0.05
    assert conv.options("efficientnet", drop_path=0.5).dropout


def test_training_with_a_key_differs_and_without_one_does_not():
    o, module, variables = conv.model("efficientnet", drop_path=0.8, depths=(2, 2))
    run = jax.jit(lambda key: module.apply(variables, conv.images(), rngs={"dropout": key}))
    a, b, c = (run(jax.random.key(i))["scores"] for i in (0, 1, 0))
    assert not np.allclose(a, b) and np.array_equal(a, c)
    plain = jax.jit(build(o.replace(drop_path=0.0)).apply)(variables, conv.images())["scores"]
    whole = jax.jit(module.apply)(variables, conv.images())["scores"]
    np.testing.assert_allclose(whole, plain, rtol=1e-5)


def test_gates_and_their_absence_are_parameters_of_the_tree():
    _, _, variables = conv.model("efficientnet")
    assert "gate" in variables["params"]["stages"]["1"]["0"]
    assert variables["params"]["stages"]["1"]["0"]["depth"]["conv"]["kernel"].shape == (5, 5, 1, 32)
    _, _, lite = conv.model("efficientnet", squeeze=0.0, act="relu6")
    assert "gate" not in lite["params"]["stages"]["1"]["0"]


def test_rows_follow_the_compound_scaling_of_the_paper():
    b7 = Options.of(families.row("efficientnet", "b7"))
    assert b7.depths == (4, 7, 7, 10, 10, 13, 4) and b7.top == 2560 and b7.stem == (64,)
    assert b7.widths == (32, 48, 80, 160, 224, 384, 640) and b7.image_size == 600
