"""What every loop over tokens or pictures does around its own objective.

A loop keeps what is its own (which options and data fit each other, the loss, its totals and its
evaluators) and takes the rest from here:

    loop.fits(o, tokenizer)
    stream = text.open_stream(config, tokenizer, "train", *loop.slices(config))
    task = loop.task(build(o), tokenizer, stream, loss=loss, totals=totals, evaluators=evaluators)
    fitted = loop.train(config, task, workdir)
"""

from collections.abc import Callable
from pathlib import Path

import jax

from models.build import example
from models.options import Options
from train.core import meter, plot, shard
from train.core.fit import Fitted, Loop, fit
from train.core.state import Task


def slices(config) -> tuple[int, int]:
    """(which, of how many): the slice of every batch that this process reads, by `config.mesh`."""
    return shard.rows(shard.mesh(config.mesh))


def placer(config) -> Callable:
    """`place(batch)`, which lays this process's rows out over the devices of `config.mesh`."""
    mesh = shard.mesh(config.mesh)
    return lambda batch: shard.place(batch, mesh)


def fits(o: Options, tokenizer):
    """ValueError unless the model has a row for every token, and knows the padding if it reads it."""
    if tokenizer.vocab > o.vocab:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab} tokens, config.model.vocab is {o.vocab}; "
            f"use --config.model.vocab={tokenizer.vocab}"
        )
    if o.position_pad not in (-1, tokenizer.pad):
        raise ValueError(
            f"config.model.position_pad={o.position_pad}, but the tokenizer's padding is "
            f"{tokenizer.pad}; use --config.model.position_pad={tokenizer.pad}"
        )


def task(model, tokenizer, stream, **own) -> Task:
    """A Task of a model with options `model.o`, a tokenizer and a stream of batches.

    own: the other fields of `train.core.state.Task`: `loss` and `totals` always, `evaluators` and
    what differs from a fresh model, all of whose parameters are trained: `init`, `frozen`, `rules`,
    `based`, `adopt`, `adapt`; `flops` where a step costs more than `flops` below says; `assets` where
    there is no tokenizer.
    """

    def init(key):
        variables = dict(model.init(key, example(model.o)))
        return variables.pop("params"), variables

    shared = dict(
        init=init,
        batches=stream.batch,
        dropout=model.o.dropout,
        fingerprint=stream.fingerprint,
        flops=lambda batch: flops(model.o, batch),
        assets=lambda folder: tokenizer.save(Path(folder) / "tokenizer"),
    )
    return Task(**{**shared, **own})


def flops(o: Options, batch) -> float:
    """Floating point operations of a step on a batch's `tokens` [...,T], forward and backward."""
    return batch["tokens"].size * meter.flops_per_token(o, batch["tokens"].shape[-1])


def train(config, task: Task, workdir, kind=None) -> Fitted:
    """Trains, writes the tokenizer into the run's folder, and draws the curves of a finished run.

    kind: a `train.core.fit.Loop` of the caller's own.
    """
    first = jax.process_index() == 0

    def begun(*parts):
        """The loop, which is made when the folder's run is known to be this one."""
        if first:
            task.assets(Path(workdir))
        return (kind or Loop)(*parts)

    fitted = fit(config, task, workdir, begun)
    if first and not fitted.stopped:
        try:
            print(f"curves: {plot.curves(workdir)}")
        except ValueError as error:
            print(f"no curves: {error}")
    return fitted
