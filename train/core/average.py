"""The mean of a run's last checkpoints (Vaswani et al. 2017, section 6.1), unlike `optim.ema`'s average.

Fewer than were asked for are averaged with a note; every checkpoint of the run has the same model.
"""

from pathlib import Path

import jax
import numpy as np

from models.interop import tensors
from models.interop.rename import flatten
from train.core import checkpoint, forms

NAME = "averaged.safetensors"


def last(workdir, count: int, like: dict, say=print) -> dict:
    """The variables whose parameters are the mean of the last `count` checkpoints' parameters.

    like: the last variables, whose form, layout and other collections are kept. The mean is written
    under per-layer names to `averaged.safetensors` in the workdir. ValueError without a checkpoint.
    """
    found = checkpoint.folders(workdir)[-count:]
    if not found:
        raise ValueError(f"{workdir} holds no checkpoint to average")
    if len(found) < count:
        say(f"{len(found)} checkpoints are averaged, not {count}; see config.checkpoint.keep")
    total = None
    for folder in found:
        params = jax.device_get(checkpoint.load_params(folder, averaged=False)[0])
        total = params if total is None else jax.tree.map(np.add, total, params)
    mean = jax.tree.map(lambda x: x / np.float32(len(found)), total)
    if jax.process_index() == 0:
        flat = {name.replace("/", "."): np.asarray(x) for name, x in flatten(mean).items()}
        tensors.write(Path(workdir) / NAME, flat)
    placed = forms.back(mean, forms.nest(like["params"]))
    where = jax.tree.map(lambda x: x.sharding, like["params"])
    return {**like, "params": jax.device_put(placed, where)}
