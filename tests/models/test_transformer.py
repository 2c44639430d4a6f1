"""The two forms of one tree, and what the layers have in common."""

import re

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


def functions(function, *args) -> list:
    """The names of a lowered program's functions that layers make."""
    text = jax.jit(function).lower(*args).as_text()
    return re.findall(r"func\.func private @(\w*layer\w*)\(", text)


def test_layers_of_a_kind_share_one_program():
    """One text a kind of block however many layers there are, in the gradient as well."""
    batch, found = {"tokens": tiny.tokens()}, {}
    for layers in (2, 6):
        o, model, variables = tiny.model("gpt3", layers=layers)  # windows in every other layer
        loss = lambda v, model=model: jnp.square(model.apply(v, batch)["logits"]).mean()
        found[layers] = functions(loss, variables), functions(jax.grad(loss), variables)
    assert len(found[6][0]) == len(found[2][0]) == 2
    assert len(found[6][1]) == len(found[2][1]) <= 8


def test_run_by_itself_nothing_is_compiled_anew(caplog):
    """Outside of a trace layers run one by one: a program shared by them would be made in each call."""
    o, model, variables = tiny.model("gpt2")
    batch = {"tokens": tiny.tokens()}
    model.apply(variables, batch)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        model.apply(variables, batch)
        assert not [text for text in caplog.messages if "jit(layer)" in text]
        jax.jit(model.apply)(variables, batch)
        assert [text for text in caplog.messages if "apply" in text]
