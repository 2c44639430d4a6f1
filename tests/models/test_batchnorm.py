"""Batch normalisation: torch's numbers in training, closed-form gradients, one device and eight."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import interop
from models.build import build
from models.gradients import batch_norm
from models.interop import hf
from tests.models import conv
from train.core import shard

CASE = Path(__file__).parents[1] / "golden/parity/resnet/early"


def test_two_training_passes_give_the_numbers_of_torch():
    """Logits, losses, gradients through the batch's statistics, and the running ones after both."""
    loaded, want = interop.load(CASE), dict(np.load(CASE / "train.npz"))
    model, labels = build(loaded.options), want["labels"]

    @jax.jit
    def step(params, stats, images):
        def loss(params):
            given = {"params": params, "batch_stats": stats}
            out, new = model.apply(given, {"images": images}, mutable=["batch_stats"])
            logs = jax.nn.log_softmax(out["scores"])[jnp.arange(len(labels)), labels]
            return -jnp.mean(logs), (out["scores"], new["batch_stats"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    params, stats = loaded.variables["params"], loaded.variables["batch_stats"]
    with jax.default_matmul_precision("highest"):
        for i in range(2):
            images = np.moveaxis(want[f"{i}/pixel_values"], 1, -1)
            (loss, (scores, stats)), grads = step(params, stats, images)
            np.testing.assert_allclose(scores, want[f"{i}/logits"], atol=2e-4)
            np.testing.assert_allclose(loss, want[f"{i}/loss"], rtol=1e-5)
            if i == 0:
                mine = hf.rename(loaded.options, jax.tree.map(np.asarray, grads))
                for name, array in mine.items():
                    wide = np.abs(want["grad/" + name]).max()
                    np.testing.assert_allclose(array, want["grad/" + name], atol=2e-4 * wide + 1e-6)
    after = hf.rename(loaded.options, params, extra={"batch_stats": stats})
    buffers = [name for name in want if name.startswith("after/")]
    assert len(buffers) == 3 * sum(name.endswith("running_var") for name in buffers)
    for name in buffers:
        np.testing.assert_allclose(after[name[6:]], want[name], rtol=1e-5, atol=1e-6)


def test_the_closed_gradient_is_the_plain_formulas():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        x = jax.random.normal(keys[0], (3, 4, 5, 6), jnp.float64) * 2 + 1
        scale, bias = 1 + jax.random.normal(keys[1], (2, 6), jnp.float64)
        weights = jax.random.normal(keys[2], x.shape, jnp.float64)

        def plain(x, scale, bias):
            mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
            return jnp.sum(weights * ((x - mean) / jnp.sqrt(var + 1e-3) * scale + bias))

        closed = lambda *a: jnp.sum(weights * batch_norm(*a, 1e-3)[0])
        a, b = (jax.value_and_grad(f, (0, 1, 2))(x, scale, bias) for f in (plain, closed))
        jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-11), a, b)


@pytest.mark.parametrize("unbiased,decay", [(True, 0.9), (False, 0.99)])
def test_running_statistics_are_averaged_as_the_options_say(unbiased, decay):
    o, module, variables = conv.model("resnet", norm_unbiased=unbiased, norm_decay=decay)
    images = conv.images()["images"]
    _, new = module.apply(variables, {"images": images}, mutable=["batch_stats"])
    x = jax.lax.conv_general_dilated(
        images, variables["params"]["stem"]["0"]["conv"]["kernel"], (2, 2), ((3, 3), (3, 3)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    x = np.asarray(x).reshape(-1, 6)
    norm = new["batch_stats"]["stem"]["0"]["norm"]
    np.testing.assert_allclose(norm["mean"], (1 - decay) * x.mean(0), rtol=1e-3, atol=1e-6)
    wanted = decay + (1 - decay) * x.var(0, ddof=int(unbiased))
    np.testing.assert_allclose(norm["var"], wanted, rtol=1e-5)


@pytest.mark.parametrize("family", ["resnet", "efficientnet"])
def test_loss_gradients_and_statistics_are_those_of_the_whole_batch_on_eight_devices(family):
    _, module, variables = conv.model(family, init_std=0.3)
    batch = {"images": conv.images(16)["images"] * jnp.linspace(0.2, 3, 16)[:, None, None, None]}
    params, stats = variables["params"], variables["batch_stats"]

    def step(params, stats, batch):
        def loss(params):
            return conv.loss(module, {"params": params, **stats}, batch, ("batch_stats",))

        return jax.value_and_grad(loss, has_aux=True)(params)

    stats = {"batch_stats": stats}
    one = jax.jit(step)(params, stats, batch)
    mesh = shard.mesh({"data": 8})
    with jax.set_mesh(mesh):
        cut = jax.device_put(batch, NamedSharding(mesh, P(("data", "fsdp"))))
        everywhere = jax.device_put((params, stats), NamedSharding(mesh, P()))
        eight = jax.jit(step)(*everywhere, cut)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    jax.tree.map(close, jax.device_get(one), jax.device_get(eight))
    half = jax.jit(step)(params, stats, {"images": batch["images"].at[8:].set(batch["images"][:8])})
    assert abs(float(half[0][0] / one[0][0]) - 1) > 1e-2  # the statistics see all rows


def test_batch_normalisation_is_not_for_sequences():
    with pytest.raises(ValueError, match="norm='batch'.*decoder"):
        conv.options("resnet", kind="decoder", head="lm")
