"""Masked-token pre-training: BERT, RoBERTa, ALBERT, Longformer; with or without sentence pairs.

    python -m train --config=configs/bert.py:tiny --workdir=runs/a

Loss: mean negative log-likelihood of the hidden tokens (Devlin et al. 2019, section 3.1; the head
runs on their positions only), plus, with `model.head = pretrain`, that of the pair's label
(next sentence, or Lan et al. 2020's sentence order). Each is a mean over its own count. Evaluation:
held-out works with masks that never change, and pseudo-perplexity of `config.eval.pseudo` rows.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from eval import masked as scoring
from models.build import build, example
from models.likelihood import pick
from models.options import Options
from train.core import losses, meter, shard
from train.core.fit import Fitted, fit
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import masked, text
from train.data.sentences import Frame


def run(config, workdir) -> Fitted:
    """Trains, evaluates, saves and draws the curves."""
    o, tokenizer, stream = _open(config)
    limit = config.eval.get("batches", 0)
    held = masked.heldout(
        config, tokenizer, config.length, config.batch, *_slice(config), limit=limit
    )
    task = make_task(config, o, tokenizer, stream, held)
    if jax.process_index() == 0:
        tokenizer.save(Path(workdir) / "tokenizer")
    fitted = fit(config, task, workdir)
    if jax.process_index() == 0 and not fitted.stopped:
        _draw(workdir)
    return fitted


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    o, tokenizer, stream = _open(config)
    return plan(config, make_task(config, o, tokenizer, stream, None)), stream.batch(0)


def _slice(config) -> tuple[int, int]:
    return shard.rows(shard.mesh(config.mesh))


def _open(config):
    """(options, tokenizer, stream of training batches); raises ValueError where they don't fit."""
    o = Options.of(config.model.to_dict())
    pair = config.data.get("pair", "none")
    if o.kind != "encoder" or o.head not in ("masked", "pretrain"):
        raise ValueError(
            f"config.model is a {o.kind} with head={o.head!r}; masked pre-training needs an encoder "
            "with head=masked, or head=pretrain and data.pair"
        )
    if (o.head == "pretrain") != (pair != "none"):
        raise ValueError(
            f"config.model.head={o.head!r} and data.pair={pair!r} do not go together: pretrain needs "
            "pair=next or order, masked needs pair=none"
        )
    if pair != "none" and o.token_types < 2:
        raise ValueError(f"data.pair={pair!r} needs model.token_types=2, not {o.token_types}")
    tokenizer = text.load_tokenizer(config, encoder=True)
    if tokenizer.vocab > o.vocab:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab} tokens, config.model.vocab is {o.vocab}; "
            f"use --config.model.vocab={tokenizer.vocab}"
        )
    pad = Frame.of(tokenizer).pad
    if o.position_pad not in (-1, pad):
        raise ValueError(
            f"config.model.position_pad={o.position_pad}, but the tokenizer's padding is {pad}; "
            f"use --config.model.position_pad={pad}"
        )
    return o, tokenizer, masked.open_stream(config, tokenizer, "train", *_slice(config))


def make_task(config, o: Options, tokenizer, stream, held) -> Task:
    """The objective as pure functions; `held` (or None) is what `masked.heldout` gives."""
    model = build(o)

    def init(key):
        variables = dict(model.init(key, example(o)))
        return variables.pop("params"), variables

    def totals(batch):
        found = {"targets": jnp.maximum(batch["weights"].sum(), 1)}
        return {**found, "pairs": jnp.float32(len(batch["pair"]))} if "pair" in batch else found

    def loss(params, frozen, extra, batch, rng, totals):
        variables = {"params": params, **extra}
        keys = jax.random.split(rng) if o.dropout else (None, None)
        rngs = [{"dropout": key} if o.dropout else {} for key in keys]
        given = scoring.inputs(batch, o)
        x, _ = model.apply(variables, given, method="features", rngs=rngs[0])
        value, sums = losses.cross_entropy(
            lambda x: model.apply(variables, x, method="logits"),
            scoring.gathered(x, batch["slots"]),
            batch["targets"],
            batch["weights"],
            totals["targets"],
        )
        if "pair" in batch:
            scores = model.apply(variables, x, given, method="scores", rngs=rngs[1])
            nats = -pick(scores, batch["pair"]).sum()
            right = (jnp.argmax(scores, -1) == batch["pair"]).sum()
            value = value + nats / totals["pairs"]
            count = len(batch["pair"])
            sums.update(pair_nll=(nats, count), pair_accuracy=(right, count))
        return value, (extra, sums)

    evaluators = {}
    if held is not None:
        mesh = shard.mesh(config.mesh)
        place = lambda batch: shard.place(batch, mesh)
        evaluators["heldout"] = scoring.build(config, model, tokenizer, held, place)
        rows = config.eval.get("pseudo", 0)
        if rows and jax.process_count() == 1:
            frame = Frame.of(tokenizer)
            evaluators["pseudo"] = scoring.pseudo(model, frame, held["batches"], rows)
    return Task(
        init=init,
        loss=loss,
        totals=totals,
        batches=stream.batch,
        evaluators=evaluators,
        dropout=o.dropout,
        fingerprint=stream.fingerprint,
        flops=lambda batch: _flops(o, batch),
        assets=lambda folder: tokenizer.save(folder / "tokenizer"),
        adopt=r"^(score|head|pool)/",
    )


def _flops(o: Options, batch) -> float:
    """Operations of a step: the stack on every token, the head on the predicted ones."""
    tokens = batch["tokens"].size * meter.flops_per_token(o, batch["tokens"].shape[1])
    return tokens + 6.0 * batch["slots"].size * o.thin * (o.width + o.vocab)


def _draw(workdir):
    from train.core import plot

    try:
        print(f"curves: {plot.curves(workdir)}")
    except ValueError as error:
        print(f"no curves: {error}")
