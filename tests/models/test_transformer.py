"""The two forms of one tree."""

import jax

from models import transformer
from tests.models import tiny


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
