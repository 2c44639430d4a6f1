"""Learning rates by name, all of them optax's."""

import math

import jax.numpy as jnp
import optax

from train.core.config import SCHEDULES
from train.core.errors import nearest


def schedule(optim, steps: int):
    """step -> learning rate, a float32 scalar; step counts from 0.

    For `warmup` steps the rate is lr * (step + 1) / warmup, so that no step is lost. Then, with
    `end` as a share of lr and n the steps since the warm-up:

    - `cosine`, `linear`: down to end * lr at step `decay_steps` (0: at the last step), then flat;
    - `constant`: lr;
    - `wsd` (warm-up, stable, decay): lr, then linearly to end * lr over the last `decay_steps`
      steps (0: the last tenth);
    - `exponential`: lr * end^(n / N), down to end * lr after the N steps of `cosine`;
    - `stairs`: those N steps in equal flights, each with a tenth of the rate of the one before, the
      last with end * lr: for end 0.01 the rate falls after a third and after two thirds;
    - `inverse_root`: lr * sqrt(h / max(step + 1, h)) with h = `decay_steps` (0: `warmup`). With
      lr = (width * warmup) ** -0.5 this is Vaswani et al. 2017; with warmup 0, h 10000 and lr 0.01
      it is T5's 1 / sqrt(max(n, 10^4)).
    """
    lr, warmup, name = optim.lr, optim.warmup, optim.schedule
    last = max((optim.decay_steps or steps) - warmup, 1)
    if name == "cosine":
        after = optax.cosine_decay_schedule(lr, last, alpha=optim.end)
    elif name == "linear":
        after = optax.linear_schedule(lr, lr * optim.end, last)
    elif name == "constant":
        after = optax.constant_schedule(lr)
    elif name == "wsd":
        length = optim.decay_steps or max(steps // 10, 1)
        begin = max(steps - length - warmup, 0)
        after = optax.linear_schedule(lr, lr * optim.end, length, transition_begin=begin)
    elif name == "exponential":
        after = optax.exponential_decay(lr, last, max(optim.end, 1e-9))
    elif name == "stairs":
        falls = max(round(-math.log10(max(optim.end, 1e-9))), 0)
        stairs = {round(i * last / (falls + 1)): 0.1 for i in range(1, falls + 1)}
        after = optax.piecewise_constant_schedule(lr, stairs)
    elif name == "inverse_root":
        half = max(optim.decay_steps or warmup, 1)

        def after(step):
            return lr * jnp.sqrt(half / jnp.maximum(step + warmup + 1.0, half))
    else:
        raise ValueError(f'optim.schedule is "{name}"; {nearest(name, SCHEDULES)}')

    def rate(step):
        step = jnp.asarray(step)
        ramp = lr * (step + 1.0) / max(warmup, 1)
        value = jnp.where(step < warmup, ramp, after(jnp.maximum(step - warmup, 0)))
        return value.astype(jnp.float32)

    return rate
