"""Batch normalisation (Ioffe and Szegedy 2015) with running statistics in `batch_stats`.

There is no train flag: where the collection `batch_stats` is mutable, a batch is normalised by its own
statistics and the running ones move; else by the running ones. Fine-tuning with frozen statistics is
training without making them mutable. In a program for several devices the statistics are those of the
whole batch. Accumulated micro-batches are the exception that batch normalisation makes everywhere: each
is normalised by its own statistics, and each moves the running ones.

The running mean is decay * old + (1 - decay) * new, which torch writes with momentum = 1 - decay and
TensorFlow with momentum = decay. `o.norm_unbiased` divides the running variance by n - 1, as torch does
(what normalises a batch is always divided by n); flax does not. `count` is the number of updates.
"""

import jax
import jax.numpy as jnp

from models.gradients import batch_norm


def normalise(module, x, scale, bias):
    """Batch normalisation of x [...,C] over all axes but the last, for a module with options `o`."""
    o, wide = module.o, jnp.float32
    mean = module.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:], wide)
    var = module.variable("batch_stats", "var", jnp.ones, x.shape[-1:], wide)
    count = module.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
    if not module.is_mutable_collection("batch_stats"):
        factor = scale * jax.lax.rsqrt(var.value + o.norm_eps)
        return ((x - mean.value) * factor + bias).astype(x.dtype)
    y, (new, spread) = batch_norm(x, scale, bias, o.norm_eps)
    if not module.is_initializing():
        n = x.size // x.shape[-1]
        spread = spread * (n / max(n - 1, 1)) if o.norm_unbiased else spread
        keep = o.norm_decay
        mean.value = keep * mean.value + (1 - keep) * jax.lax.stop_gradient(new)
        var.value = keep * var.value + (1 - keep) * jax.lax.stop_gradient(spread)
        count.value = count.value + 1
    return y
