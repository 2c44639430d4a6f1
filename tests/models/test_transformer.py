"""The two forms of one tree."""

import jax
import jax.numpy as jnp
import optax

from models import transformer
from models.build import build, example
from tests.models import tiny
from train.core.state import Task, fresh, make_step


def test_stack_and_unstack_are_inverse():
    o, model, variables = tiny.model("gpt2")
    stacked = transformer.stack(variables["params"])
    assert stacked["blocks"]["attn"]["q"]["kernel"].shape == (3, 32, 4, 8)
    back = transformer.unstack(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(variables["params"])
    same = jax.tree.map(lambda a, b: bool((a == b).all()), back, variables["params"])
    assert all(jax.tree.leaves(same))
    assert transformer.unstack(back) == back and transformer.stack(stacked) == stacked


def test_a_scanned_model_has_the_stacked_tree():
    o, model, variables = tiny.model("moe")
    scanned = tiny.model("moe", scan=True)[2]["params"]
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shapes(scanned) == shapes(transformer.stack(variables["params"]))


def test_rematerialisation_saves_memory_in_the_compiled_step():
    """Not only in the trace: XLA's CPU pipeline must not merge what is made again with the first."""
    sizes = {}
    for remat in ("none", "dots_no_batch", "full"):
        o = tiny.options("gpt2").replace(layers=4, width=64, heads=4, ff=512, remat=remat)
        model, batch = build(o), {"tokens": jnp.zeros((8, o.context), jnp.int32)}
        task = Task(
            init=lambda key, model=model: (model.init(key, example(model.o))["params"], {}),
            loss=lambda p, frozen, extra, batch, rng, totals, model=model: (
                jnp.sum(model.apply({"params": p}, batch, method="features")[0] ** 2),
                (extra, {}),
            ),
            totals=lambda batch: {},
            batches=lambda step: batch,
        )
        state = jax.eval_shape(lambda task=task: fresh(task, optax.sgd(0.1), 0, False))
        step = make_step(task, optax.sgd(0.1), seed=0)
        sizes[remat] = step.lower(state, (), batch).compile().memory_analysis().temp_size_in_bytes
    assert sizes["full"] < sizes["dots_no_batch"] < 0.85 * sizes["none"], sizes
