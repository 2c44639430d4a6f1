"""The step without modules computes what the step with modules does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scripts.bench import ours, sizes
from scripts.bench import plain as bench_plain
from scripts.bench.train import RECIPE


def task(plain, **changes):
    o = sizes.options("gpt2", "tiny", **changes)
    job = {"model": o.plain(), "batch": 2, "length": 16, "clip": 1.0, "plain": plain, **RECIPE}
    return ours.task(ours.recipe(job), job)


@pytest.mark.parametrize("changes", [{}, {"remat": "full"}, {"attend": "blocks"}])
def test_values_and_gradients_are_the_modules(changes):
    modules, plain = task(False, **changes), task(True, **changes)
    params, extra = modules.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    batch = {name: jnp.asarray(x) for name, x in modules.batches(0).items()}
    totals = modules.totals(batch)
    found = [
        jax.value_and_grad(each.loss, has_aux=True)(params, (), extra, batch, None, totals)
        for each in (modules, plain)
    ]
    np.testing.assert_allclose(found[0][0][0], found[1][0][0], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        found[0][1],
        found[1][1],
    )


def test_what_it_lacks_is_an_error():
    with pytest.raises(ValueError, match="model.norm='layer' only"):
        bench_plain.loss(sizes.options("llama", "tiny"))
    with pytest.raises(ValueError, match="no dropout"):
        bench_plain.loss(sizes.options("gpt2", "tiny", drop_resid=0.1))
