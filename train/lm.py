"""Next-token prediction: GPT-1 to GPT-3, LLaMA, mixtures of experts. Also their fine-tuning.

    python -m train --config=configs/gpt2.py:tiny --workdir=runs/a

Loss: mean negative log-likelihood of the next token over all weighted targets (Radford et al. 2018,
eq. 1), plus `model.balance` times the router's balance loss where there are experts. Evaluation: whole
held-out works, in bits per character.
"""

import jax
import jax.numpy as jnp

from eval import perplexity
from models.build import build
from models.options import Options
from train.core import best, checkpoint, loop, losses, preempt
from train.core.fit import Fitted
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import task as tasks
from train.data import text

PASSAGES = 3
LABELS = ("targets", "weights")


def run(config, workdir) -> Fitted:
    """Trains, evaluates, saves, draws the curves and prints three generated passages."""
    o, tokenizer, stream, held = _open(config)
    task = make_task(config, o, tokenizer, stream, held)
    fitted = loop.train(config, task, workdir)
    if o.head in ("lm", "double") and not fitted.stopped and jax.process_count() == 1:
        with preempt.interruptible():
            _print_passages(build(o), fitted.variables(), tokenizer, held)
    return fitted


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    o, tokenizer, stream, held = _open(config)
    task = make_task(config, o, tokenizer, stream, held)
    best.expect(config, task)
    return plan(config, task), stream.batch(0)


def _open(config):
    """(options, tokenizer, stream of training batches, held-out set); ValueError where they don't fit."""
    o = Options.of(config.model.to_dict())
    tokenizer = text.load_tokenizer(config)
    loop.fits(o, tokenizer)
    tasks.same_start(config, tokenizer, checkpoint.find)
    part = loop.slices(config)
    stream = text.open_stream(config, tokenizer, "train", *part)
    limit = config.eval.get("batches", 0)
    held = text.heldout(config, tokenizer, config.length, config.batch, *part, limit=limit)
    return o, tokenizer, stream, held


def make_task(config, o: Options, tokenizer, stream, held) -> Task:
    """The objective as pure functions; `held` (or None) is what `text.heldout` gives."""
    model = build(o)

    def totals(batch):
        return {"targets": jnp.maximum(batch["weights"].sum(), 1), "real": _real(batch).sum()}

    def loss(params, frozen, extra, batch, rng, totals):
        variables = {"params": params, **extra}
        rngs = {"dropout": rng} if o.dropout else {}
        inputs = {name: x for name, x in batch.items() if name not in LABELS}
        x, out = model.apply(variables, inputs, method="features", rngs=rngs)
        value, sums = losses.cross_entropy(
            lambda x: model.apply(variables, x, method="logits"),
            x,
            batch["targets"],
            batch["weights"],
            totals["targets"],
        )
        if o.experts and o.balance:
            share = _real(batch).sum() / totals["real"]
            uneven = share * losses.balance(out["router"], o.experts)
            value = value + o.balance * uneven
            sums["balance"] = uneven, share
        return value, (extra, sums)

    own = {}
    if held is not None:
        run = perplexity.build(config, model, tokenizer, held, loop.placer(config))
        own = {"evaluators": {"heldout": run}, "measures": {"heldout": perplexity.NAMES}}
    return loop.task(model, tokenizer, stream, loss=loss, totals=totals, **own)


def _real(batch):
    """float32 [B,T]: 1 where a token is real, by mask or segments; all are where neither is given."""
    if "mask" in batch:
        return batch["mask"].astype(jnp.float32)
    if "segments" in batch:
        return (batch["segments"] > 0).astype(jnp.float32)
    return jnp.ones(batch["tokens"].shape, jnp.float32)


def _print_passages(model, variables, tokenizer, held, new: int = 200):
    """Samples on from the beginnings of held-out works, to read."""
    from models.generate import apart, generate
    from models.prompts import left_pad
    from models.settings import Settings, unused

    window = min(32, model.o.context // 2)
    rows = [
        row[mask > 0][:window].tolist()
        for batch in held["batches"]
        for row, mask in zip(batch["tokens"], batch["mask"], strict=True)
        if batch["weights"].any()
    ]
    rows = [row for row in rows if len(row) == window] or [row for row in rows if row]
    prompts = rows[:: max(1, len(rows) // PASSAGES)][:PASSAGES]
    if not prompts:
        return
    tokens, mask = left_pad(prompts)
    eos = (tokenizer.eos,) if tokenizer.eos >= 0 else ()
    count = min(new, model.o.context - tokens.shape[1])
    over = unused(tokenizer.vocab, model.o.vocab)
    settings = Settings(max_new_tokens=count, temperature=0.8, top_k=40, eos=eos, suppress=over)
    model, variables = apart(model, jax.device_get(variables))
    out = generate(model, variables, tokens, mask, settings, seeds=list(range(len(prompts))))
    for number, (prompt, ids) in enumerate(zip(prompts, out.new(), strict=True), 1):
        print(f"\n--- passage {number} ---\n{tokenizer.decode(prompt)}{tokenizer.decode(ids)}")
