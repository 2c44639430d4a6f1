"""Reward models: a score for an answer, from people's comparisons (Ouyang et al. 2022, section 3.5).

    python -m train --config=configs/reward.py:tiny --workdir=runs/reward

Loss: for each prompt the mean over its pairs of -log sigmoid(r_w - r_l - margin), every answer being
read once, then the mean over prompts (equation 1); `config.reward.centre` c adds c (r_w + r_l)^2. A
decoder's score is read at the last real token, an encoder's at its pooled state; the head starts as
N(0, 1 / (D + 1)) with bias 0. `layer_decay` is that of `train.classify`. After training the held-out
comparisons give accuracy beside its ceiling, accuracy by margin, calibration, and the scores' mean and
deviation (reward.json). The first line says how many epochs the steps make: the paper's reward models
overfit with more than one.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp

from eval import answers as every
from eval import preference
from models.build import build
from models.options import Options
from train.core import checkpoint, loop, lora, origin, preferences
from train.core.fit import Fitted
from train.core.layerwise import layerwise
from train.core.plan import Plan, plan
from train.core.sections import section, within
from train.core.state import Task
from train.data import answers, compared, instructions
from train.data import preferences as data
from train.data import task as tasks

RESULTS = "reward.json"


def run(config, workdir) -> Fitted:
    """Trains, saves, and writes what the held-out comparisons say to reward.json."""
    config, o, tokenizer, stream, held = _open(config)
    base = origin.adapted(config, o, lambda: _fresh(config, o))
    task = make_task(config, o, tokenizer, stream, held, base)
    fitted = loop.train(config, task, workdir)
    if not fitted.stopped and jax.process_index() == 0:
        found = {name: x for name, x in fitted.metrics.items() if name.startswith("valid/")}
        (Path(workdir) / RESULTS).write_text(json.dumps(found, indent=1) + "\n")
        print("  ".join(f"{name[6:]} {x:.3f}" for name, x in found.items() if name.count("/") == 1))
        if base is not None:
            lora.write(config, o, fitted.variables()["params"], Path(workdir) / "adapter", base)
    return fitted


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    config, o, tokenizer, stream, _ = _open(config)
    base = origin.zeros(o) if lora.settings(config)["rank"] else None
    return plan(config, make_task(config, o, tokenizer, stream, None, base)), stream.batch(0)


def _fresh(config, o):
    return jax.jit(origin.scores(o))(jax.random.key(config.seed))


def _open(config):
    """(config, options, tokenizer, stream, (held-out batches, ceiling) or None)."""
    config = config.copy_and_resolve_references().unlock()
    o = origin.options(config)
    config.model = o.plain()
    origin.check_score(o, "a reward model")
    parts, ceiling = data.open_parts(config)
    texts = lambda: compared.texts(parts["train"])
    encoder = o.kind == "encoder"
    tokenizer = tasks.open_tokenizer(config, checkpoint.find, texts, encoder=encoder)
    tasks.refuse_other_tokens(config, tokenizer, checkpoint.find)
    loop.fits(o, tokenizer)
    decay = config.get("layer_decay", 1.0)
    if decay != 1.0:
        config.optim.multipliers = (*config.optim.multipliers, *layerwise(o, decay, config))
    tokenizer.chat_template = "" if encoder else origin.template(config, tokenizer)
    makes, about, counts = {}, {"tokenizer": tokenizer.hash}, []
    for part, found in parts.items():
        if encoder:
            rows = compared.framed(found, tokenizer)
        else:
            dialogue = instructions.Dialogue(tokenizer, tokenizer.chat_template)
            rows = compared.written(found, dialogue)
        truncate = bool(config.data.get("truncate", False))
        rows, found, out = compared.fitting(rows, found, config.length, truncate)
        if not rows:
            raise ValueError(f"config.data: no comparison is left in the {part} part")
        pairs = int(sum(item.better.sum() for item in found))
        counts.append(f"{part} {len(rows):,} prompts, {pairs:,} pairs, {out} left out")
        fill = max(tokenizer.pad, 0)
        makes[part] = compared.ranked(rows, found, config.length, fill, encoder), len(rows)
        about[part] = answers.digest([rows, [item.better for item in found]])
    counts.append(f"{config.steps * config.batch / makes['train'][1]:.1f} epochs")
    if jax.process_index() == 0:
        print("; ".join(counts), flush=True)
    stream = answers.Stream(*makes["train"], config, *loop.slices(config), about)
    held = None
    if "valid" in makes:
        batches = every.every(*makes["valid"], config.batch, *loop.slices(config))
        held = batches, ceiling
    return config.lock(), o, tokenizer, stream, held


def make_task(config, o: Options, tokenizer, stream, held, base=None) -> Task:
    """The objective as pure functions. base: with LoRA the frozen parameters, or their shapes."""
    model, how = build(o), lora.settings(config)
    own_loss = section(config, "reward", {"margin": 0.0, "centre": 0.0})
    within("reward", own_loss, {"margin": (0, None), "centre": (0, None)})
    margin, centre = own_loss["margin"], own_loss["centre"]
    whole = lambda params, frozen: params if base is None else lora.merge(frozen, params, how)

    def totals(batch):
        return {"prompts": jnp.maximum((batch["better"].sum((1, 2)) > 0).sum(), 1)}

    def loss(params, frozen, extra, batch, rng, totals):
        variables = {"params": whole(params, frozen), **extra}
        more = {"rngs": {"dropout": rng}} if o.dropout else {}
        found = preference.scores(model, variables, batch, **more)
        nats, pairs, right = preferences.ranked(found, batch["better"], margin, centre)
        real = (batch["mask"].sum(-1) > 1).astype(jnp.float32)
        sums = {
            "nll": (nats.sum(), (pairs > 0).sum()),
            "accuracy": (right.sum(), pairs.sum()),
            "score": ((found * real).sum(), real.sum()),
        }
        return nats.sum() / totals["prompts"], (extra, sums)

    evaluators = {}
    if held is not None:
        merge = jax.jit(lambda params: whole(params, base))
        score = preference.build(model, held[0], loop.placer(config), held[1])
        evaluators["valid"] = lambda v: score({**v, "params": merge(v["params"])})
    own = dict(init=lambda key: (origin.scores(o)(key), {}), adopt=r"^(score|head|pool)/")
    if base is not None:
        own = dict(init=lambda key: (lora.init(key, base, how), {}), frozen=base, based=True)
    return loop.task(
        model,
        tokenizer,
        stream,
        loss=loss,
        totals=totals,
        evaluators=evaluators,
        rules=lora.RULES,
        flops=lambda batch: loop.flops(
            o, {"tokens": batch["tokens"].reshape(-1, batch["tokens"].shape[-1])}
        ),
        **own,
    )
