"""Trains a tokenizer of images (`models.dvae`), whose codes `train.mim` predicts.

    python -m train --config=configs/beit.py:tokenizer --workdir=runs/tokenizer

The loss is the squared error of the pixels plus `config.divergence` times KL(codes || uniform) per patch,
through Gumbel-softmax samples whose temperature falls (Ramesh et al. 2021, section 2.1; their
reconstruction loss is a logit-Laplace likelihood). Evaluated with the most probable code of every
patch: the squared error against `variance`, what the mean picture would leave, and `codes`, the
perplexity of how often each is used.
"""

import jax
import jax.numpy as jnp
import numpy as np

from models.build import build
from models.options import Options
from models.threefry import gumbel
from train.core import loop
from train.core.fit import Fitted
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import images, seen, visual, workers


def run(config, workdir) -> Fitted:
    """Trains the tokenizer."""
    o, parts = _open(config)
    return loop.train(config, make_task(config, o, parts, _stream(config, parts)), workdir)


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    o, parts = _open(config)
    stream = _stream(config, parts)
    return plan(config, make_task(config, o, parts, stream)), stream.batch(0)


def _open(config):
    """(options, parts of the data); ValueError where they don't fit."""
    o = Options.of(config.model.to_dict())
    if o.kind != "dvae" or o.image_size % o.patch:
        raise ValueError(
            f"config.model is a {o.kind} for {o.image_size} pixels in patches of {o.patch}; a "
            "tokenizer needs model.kind=dvae and patches that divide the image"
        )
    if o.norm == "batch":
        raise ValueError(
            "config.model.norm='batch' has running statistics, which a tokenizer does not keep; "
            "expected layer or rms"
        )
    seen.fits(config, o)
    return o, images.parts(config)


def _stream(config, parts):
    stream = images.open_stream(config, parts["train"], *loop.slices(config))
    first, last = config.temperature
    stream = visual.Tempered(stream, first, last, config.steps)
    return workers.ahead(stream, config.data.get("workers", 0))


def make_task(config, o: Options, parts, stream) -> Task:
    """The objective as pure functions."""
    model = build(o)

    def totals(batch):
        return {"rows": jnp.float32(len(batch["images"]))}

    def loss(params, frozen, extra, batch, rng, totals):
        variables, x = {"params": params}, batch["images"]
        logits = model.apply(variables, x, method="encode")
        noise = gumbel(rng, logits.shape)
        soft = jax.nn.softmax((logits + noise) / batch["temperature"][:, None, None, None], -1)
        made = model.apply(variables, soft, method="decode")
        error = jnp.square(made - x).mean((1, 2, 3))
        logp = jax.nn.log_softmax(logits, -1)
        kl = (jnp.exp(logp) * (logp + jnp.log(logits.shape[-1]))).sum(-1).mean((1, 2))
        count = jnp.float32(len(x))
        value = (error + config.divergence * kl).sum() / totals["rows"]
        return value, (extra, {"error": (error.sum(), count), "kl": (kl.sum(), count)})

    evaluators = {}
    if "valid" in parts:
        held = images.held(config, parts["valid"], *loop.slices(config))
        evaluators["valid"] = evaluator(model, held, loop.placer(config))
    return loop.task(
        model, None, stream, loss=loss, totals=totals, evaluators=evaluators, dropout=True,
        flops=None, assets=lambda folder: None, unit="images",
    )  # fmt: skip


def evaluator(model, held, place):
    """`run(variables)` with hard codes: error, variance, codes."""

    @jax.jit
    def score(variables, batch):
        x, rows = batch["images"], batch["rows"]
        codes = model.apply(variables, x, method="tokens")
        hard = jax.nn.one_hot(codes, model.o.vocab).reshape(len(x), *model.o.grid, -1)
        made = model.apply(variables, hard, method="decode")
        error = (jnp.square(made - x).mean((1, 2, 3)) * rows).sum()
        moments = [(rows[:, None, None, None] * x**n).sum(0) for n in (1, 2)]
        return error, rows.sum(), *moments, (hard * rows[:, None, None, None]).sum((0, 1, 2))

    def run(variables) -> dict:
        found = [jax.device_get(score(variables, place(batch))) for batch in held]
        error, rows, first, second, used = (sum(x) for x in zip(*found, strict=True))
        share = used / used.sum()
        entropy = -(share * np.log(np.maximum(share, 1e-12))).sum()
        return {
            "error": float(error / rows),
            "variance": float((second / rows - (first / rows) ** 2).mean()),
            "codes": float(np.exp(entropy)),
        }

    return run
