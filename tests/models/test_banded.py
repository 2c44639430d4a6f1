"""Longformer's banded form: agreement with the dense one, and memory linear in the length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.build import build
from tests.models import tiny
from tests.models.test_encoder import model, options, tokens

LENGTHS = (1, 13, 65, 131)


def marked(time, *slots):
    return jnp.zeros((2, time), int).at[:, [s for s in slots if s < time]].set(1)


@functools.cache
def forms(**changes):
    """(the dense form, the banded one, variables of both); how many slots is the band's alone."""
    o = options("longformer", attend="banded", **changes)
    changes.pop("global_slots", None)
    _, dense, variables = model("longformer", attend="explicit", **changes)
    return dense, build(o), variables


@functools.cache
def gradients(module):
    """Compiled once for all batches of a shape: a sum of squared features, with them, and its gradients."""

    def loss(params, batch, real):
        x, _ = module.apply({"params": params}, batch, method="features")
        x = x * real[..., None]
        return (x**2 * jnp.arange(1, 33)).sum() / real.sum(), x

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def agree(batch, real=None, **changes) -> bool:
    """Whether features and the gradients of a sum of their squares are the same in both forms."""
    dense, banded, variables = forms(**changes)
    real = jnp.ones(batch["tokens"].shape) if real is None else real
    (_, x), grads = gradients(dense)(variables["params"], batch, real)
    (_, y), others = gradients(banded)(variables["params"], batch, real)
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(others), strict=True)
    return tiny.close(y, x) and all(
        float(jnp.abs(mine - other).max()) < 1e-4 * max(1.0, float(jnp.abs(mine).max()))
        for mine, other in pairs
    )


@pytest.mark.parametrize("time", LENGTHS)
def test_any_length_agrees_with_the_dense_form(time):
    assert agree({"tokens": tokens(2, time)})


@pytest.mark.parametrize("time", [13, 131])
@pytest.mark.parametrize("side", ["left", "right"])
def test_global_tokens_and_padding_agree(time, side):
    lengths = jnp.asarray([[time], [max(1, time // 2)]])
    slots = jnp.arange(time)[None]
    mask = (slots < lengths) if side == "right" else (slots >= time - lengths)
    batch = {
        "tokens": jnp.where(mask, tokens(2, time), 1),
        "mask": mask.astype(int),
        "global_mask": marked(time, 0, 1, 40, 77, 130),
    }
    assert agree(batch, mask.astype(jnp.float32))


def test_packed_segments_agree():
    segments = jnp.asarray([[1] * 50 + [2] * 60 + [0] * 21, [1] * 131])
    batch = {"tokens": tokens(2, 131), "segments": segments, "global_mask": marked(131, 0, 55, 120)}
    assert agree(batch, (segments > 0).astype(jnp.float32))


def test_more_global_tokens_than_slots_are_still_exact():
    batch = {"tokens": tokens(2, 131), "global_mask": marked(131, *range(0, 131, 3))}
    assert agree(batch, global_slots=4)
    assert agree({**batch, "segments": jnp.asarray([[1] * 70 + [2] * 61] * 2)}, global_slots=4)


def test_windows_wider_than_a_chunk_agree():
    assert agree({"tokens": tokens(2, 170)}, windows=(160, 320))


def temporaries(time, attend, **changes):
    """Bytes of temporaries of a training step's gradient at a length."""
    o = options("longformer", layers=2, windows=(32,), context=time, attend=attend, **changes)
    module = build(o)
    shapes = jax.eval_shape(module.init, jax.random.key(0), {"tokens": tokens(1, 8)})
    batch = {"tokens": jnp.zeros((1, time), int), "global_mask": jnp.zeros((1, time), int)}

    def loss(variables):
        return (module.apply(variables, batch, method="features")[0] ** 2).sum()

    return jax.jit(jax.grad(loss)).lower(shapes).compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_linearly_with_the_length():
    short, long = (temporaries(time, "banded", global_slots=8) for time in (1024, 4096))
    assert long < 4.6 * short
    assert temporaries(4096, "explicit") > 8 * long


def test_dropout_is_applied_to_the_band():
    o, module, variables = model("longformer", attend="banded", drop_attn=0.5, drop_resid=0.0)
    batch = {"tokens": tokens(2, 100), "global_mask": marked(100, 0)}
    run = lambda seed: tiny.apply(module)(
        variables, batch, method="features", rngs={"dropout": jax.random.key(seed)}
    )[0]
    assert bool((run(1) == run(1)).all())
    assert not tiny.close(run(1), run(2))
    assert np.isfinite(run(1)).all()
