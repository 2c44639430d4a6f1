"""A run goes on with other devices, another layout, another precision."""

import json

import jax
import jax.numpy as jnp
import pytest

from tests.train import toy
from train.core import checkpoint, shard, start
from train.core.fit import fit
from train.core.plan import plan

HALF, STEPS = 3, 6


def on(sizes, steps=STEPS, **changes):
    """A run on a mesh of (data, fsdp, tensor) devices."""
    mesh = {f"mesh.{axis}": size for axis, size in zip(shard.AXES, sizes, strict=True)}
    same = {"steps": steps, "optim.schedule": "constant", "optim.ema": 0.9, "checkpoint.every": 3}
    return toy.config(**same, **mesh, **changes)


def losses(workdir) -> dict:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((8, 1, 1), (2, 1, 1)),
        ((1, 8, 1), (1, 2, 1)),
        ((1, 1, 1), (1, 8, 1)),
        ((2, 2, 2), (1, 8, 1)),
        ((1, 8, 1), (2, 1, 4)),
    ],
)
def test_other_devices_go_on_with_the_same_numbers(tmp_path, before, after):
    whole, moved = on(before), on(after)
    fit(whole, toy.task(whole), tmp_path / "whole")
    half = on(before, steps=HALF)
    saved = fit(half, toy.task(half), tmp_path / "moved").state
    p = plan(moved, toy.task(moved))
    folder = checkpoint.folders(tmp_path / "moved")[-1]
    state = checkpoint.restore(folder, p.abstract, p.shardings, p.mesh, p.rules)
    for part in ("params", "opt_state", "ema", "step"):
        assert toy.digest(getattr(state, part)) == toy.digest(getattr(saved, part)), part
    for x, place in zip(jax.tree.leaves(state), jax.tree.leaves(p.shardings), strict=True):
        assert x.sharding.is_equivalent_to(place, x.ndim)
    fit(moved, toy.task(moved), tmp_path / "moved")
    one, other = losses(tmp_path / "whole"), losses(tmp_path / "moved")
    assert one.keys() == other.keys() == set(range(1, STEPS + 1))
    for step, value in one.items():
        assert other[step] == pytest.approx(value, rel=1e-5), step


def narrow(key):
    """The toy's parameters in bfloat16."""
    params, extra = toy.init(key)
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), extra


@pytest.fixture
def wide(tmp_path):
    c = on((1, 1, 1), steps=HALF)
    fit(c, toy.task(c), tmp_path)
    return tmp_path


def test_parameters_are_cast_only_when_asked(wide):
    c = on((1, 1, 1))
    with pytest.raises(ValueError) as error:
        fit(c, toy.task(c, init=narrow), wide)
    words = str(error.value)
    assert "holds ema/blocks/0/mlp/down/kernel as float32; this run needs bfloat16" in words
    assert "--config.allow_cast=true" in words and len(words.splitlines()) <= 3
    c.allow_cast = True
    state = fit(c, toy.task(c, init=narrow), wide).state
    assert int(state.step) == STEPS
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
    held = checkpoint.inside(checkpoint.folders(wide)[-2])["params"]
    assert {x.dtype for x in jax.tree.leaves(held)} == {jnp.dtype(jnp.float32)}


def test_the_cast_is_of_the_values(wide):
    c = on((1, 1, 1))
    p = plan(c, toy.task(c, init=narrow))
    folder = checkpoint.folders(wide)[-1]
    cast = checkpoint.restore(folder, p.abstract, p.shardings, p.mesh, p.rules, cast=True)
    q = plan(c, toy.task(c))
    whole = checkpoint.restore(folder, q.abstract, q.shardings, q.mesh, q.rules)
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), whole.params)
    assert toy.digest(cast.params) == toy.digest(expected)


def test_starting_from_a_checkpoint_casts_only_when_asked(wide, tmp_path_factory):
    c = on((1, 2, 1), **{"init.checkpoint": str(wide)})
    task = toy.task(c, init=narrow)
    p, said = plan(c, task), []
    given, _ = checkpoint.load_params(checkpoint.find(wide))
    with pytest.raises(ValueError, match="as float32; this run needs bfloat16\n.*allow_cast"):
        start.adopt(given, task, p, said.append, "it")
    state = start.adopt(given, task, p, said.append, "it", cast=True)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
