"""Masked-token pre-training: BERT, RoBERTa, ALBERT, Longformer; with or without sentence pairs.

    python -m train --config=configs/bert.py:tiny --workdir=runs/a

Loss: mean negative log-likelihood of the hidden tokens (Devlin et al. 2019, section 3.1; the head
runs on their positions only), plus, with `model.head = pretrain`, that of the pair's label
(next sentence, or Lan et al. 2020's sentence order). Each is a mean over its own count. Evaluation:
held-out works with masks that never change, with `next_sentence_accuracy` or `sentence_order_accuracy`
beside the masked tokens' figures, and pseudo-perplexity of `config.eval.pseudo` rows.
"""

import jax
import jax.numpy as jnp

from eval import masked as scoring
from models.build import build
from models.likelihood import pick
from models.options import Options
from train.core import checkpoint, loop, losses
from train.core.fit import Fitted
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import masked, text
from train.data import task as tasks
from train.data.sentences import Frame


def run(config, workdir) -> Fitted:
    """Trains, evaluates, saves and draws the curves."""
    o, tokenizer, stream = _open(config)
    limit = config.eval.get("batches", 0)
    held = masked.heldout(
        config, tokenizer, config.length, config.batch, *loop.slices(config), limit=limit
    )
    task = make_task(config, o, tokenizer, stream, held)
    return loop.train(config, task, workdir)


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    o, tokenizer, stream = _open(config)
    return plan(config, make_task(config, o, tokenizer, stream, None)), stream.batch(0)


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
    loop.fits(o, tokenizer)
    tasks.same_start(config, tokenizer, checkpoint.find)
    return o, tokenizer, masked.open_stream(config, tokenizer, "train", *loop.slices(config))


def make_task(config, o: Options, tokenizer, stream, held) -> Task:
    """The objective as pure functions; `held` (or None) is what `masked.heldout` gives."""
    model = build(o)

    def totals(batch):
        found = {"targets": jnp.maximum(batch["weights"].sum(), 1)}
        return {**found, "pairs": jnp.float32(len(batch["pair"]))} if "pair" in batch else found

    def loss(params, frozen, extra, batch, rng, totals):
        variables = {"params": params, **extra}
        rngs = {"dropout": rng} if o.dropout else {}
        given = scoring.inputs(batch, o)
        x, scores = model.apply(variables, given, batch["slots"], method="picked", rngs=rngs)
        value, sums = losses.cross_entropy(
            lambda x: model.apply(variables, x, method="logits"),
            x,
            batch["targets"],
            batch["weights"],
            totals["targets"],
        )
        if "pair" in batch:
            nats = -pick(scores, batch["pair"]).sum()
            right = (jnp.argmax(scores, -1) == batch["pair"]).sum()
            value = value + nats / totals["pairs"]
            count = len(batch["pair"])
            sums[f"{scoring.pair(config)}_nll"] = nats, count
            sums[f"{scoring.pair(config)}_accuracy"] = right, count
        return value, (extra, sums)

    evaluators = {}
    if held is not None:
        evaluators["heldout"] = scoring.build(config, model, tokenizer, held, loop.placer(config))
        rows = config.eval.get("pseudo", 0)
        if rows and jax.process_count() == 1:
            frame = Frame.of(tokenizer)
            evaluators["pseudo"] = scoring.pseudo(model, frame, held["batches"], rows)
    return loop.task(
        model,
        tokenizer,
        stream,
        loss=loss,
        totals=totals,
        evaluators=evaluators,
        measures={"heldout": scoring.names(config, o), "pseudo": scoring.PSEUDO},
        flops=lambda batch: _flops(o, batch),
        adopt=r"^(score|head|pool)/",
    )


def _flops(o: Options, batch) -> float:
    """Operations of a step: the stack on every token, the head on the predicted ones."""
    return loop.flops(o, batch) + 6.0 * batch["slots"].size * o.thin * (o.width + o.vocab)
