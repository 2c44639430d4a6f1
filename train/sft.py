"""Supervised fine-tuning on instructions and chats: the first of InstructGPT's stages.

    python -m train --config=configs/sft.py:tiny --workdir=runs/sft

Loss: mean negative log-likelihood of the answers' tokens, each answer's end among them, over all of
the batch (Ouyang et al. 2022, section 3.5). With `config.data.packing` "answers" several rows share
one: positions restart and attention does not cross; "none" pads. Starts from `config.init`, whole or
by low-rank adapters (`config.lora`). The chat template is saved with the tokenizer.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from eval import answers as scoring
from models.build import build
from models.likelihood import of_tokens
from models.options import Options
from train.core import checkpoint, loop, lora, origin
from train.core.fit import Fitted
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import answers, instructions, packing
from train.data import task as tasks

PACKINGS = ("none", "answers")


def run(config, workdir) -> Fitted:
    """Trains and saves; with LoRA writes a PEFT folder."""
    config, o, tokenizer, stream, held = _open(config)
    base = origin.adapted(config, o)
    fitted = loop.train(config, make_task(config, o, tokenizer, stream, held, base), workdir)
    if base is not None and not fitted.stopped and jax.process_index() == 0:
        lora.write(config, o, fitted.variables()["params"], Path(workdir) / "adapter")
    return fitted


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    config, o, tokenizer, stream, _ = _open(config)
    base = origin.zeros(o) if lora.settings(config)["rank"] else None
    return plan(config, make_task(config, o, tokenizer, stream, None, base)), stream.batch(0)


def _open(config):
    """(config, options, tokenizer, stream, held-out batches); ValueError where they don't fit."""
    config = config.copy_and_resolve_references().unlock()
    o = origin.options(config)
    config.model = o.plain()
    origin.check_policy(o)
    parts = instructions.open_parts(config)
    texts = lambda: instructions.plain_texts(parts["train"])
    tokenizer = tasks.open_tokenizer(config, checkpoint.find, texts, encoder=False)
    tasks.refuse_other_tokens(config, tokenizer, checkpoint.find)
    loop.fits(o, tokenizer)
    tokenizer.chat_template = origin.template(config, tokenizer)
    dialogue = instructions.Dialogue(tokenizer, tokenizer.chat_template)
    how = config.data.get("packing", "none")
    if how not in PACKINGS:
        raise ValueError(f"config.data.packing is {how!r}; expected {' or '.join(PACKINGS)}")
    rows, counts = {}, []
    for part, found in parts.items():
        rows[part], cut, out = instructions.encode(found, dialogue, config)
        counts.append(f"{part} {len(rows[part]):,} rows, {cut} cut, {out} left out")
    if jax.process_index() == 0:
        print("; ".join(counts), flush=True)
    make, count = batcher(rows["train"], config.length, tokenizer, how == "answers")
    about = {"tokenizer": tokenizer.hash, "rows": answers.digest(rows["train"]), "packing": how}
    stream = answers.Stream(make, count, config, *loop.slices(config), about)
    held = None
    if "valid" in rows:
        if not rows["valid"]:
            raise ValueError("config.data: no row of the valid part is left to evaluate on")
        make, count = batcher(rows["valid"], config.length, tokenizer, False)
        held = scoring.every(make, count, config.batch, *loop.slices(config))
    return config.lock(), o, tokenizer, stream, held


def batcher(rows, length: int, tokenizer, packed: bool):
    """(make(numbers) -> batch, how many items): rows padded, or packed by best fit."""
    fill = max(tokenizer.pad, 0)
    if not packed:
        return lambda numbers: answers.pad([rows[n] for n in numbers], length, fill), len(rows)
    groups = packing.best_fit([len(tokens) for tokens, _ in rows], length)
    many = [[rows[n] for n in group] for group in groups]
    return lambda numbers: answers.pack([many[n] for n in numbers], length, fill), len(many)


def make_task(config, o: Options, tokenizer, stream, held, base=None) -> Task:
    """The objective as pure functions. base: with LoRA the frozen parameters, or their shapes."""
    model, how = build(o), lora.settings(config)
    whole = lambda params, frozen: params if base is None else lora.merge(frozen, params, how)

    def totals(batch):
        return {"targets": jnp.maximum(batch["weights"].sum(), 1)}

    def loss(params, frozen, extra, batch, rng, totals):
        variables = {"params": whole(params, frozen), **extra}
        given = {name: x for name, x in batch.items() if name != "weights"}
        more = {"rngs": {"dropout": rng}} if o.dropout else {}
        found, _ = of_tokens(model, variables, given, **more)
        nats = -jnp.sum(found * batch["weights"])
        return nats / totals["targets"], (extra, {"nll": (nats, batch["weights"].sum())})

    evaluators = {}
    if held is not None:
        merge = jax.jit(lambda params: whole(params, base))
        run = scoring.build(model, held, loop.placer(config))
        evaluators["valid"] = lambda v: run({**v, "params": merge(v["params"])})
    low_rank = dict(init=lambda key: (lora.init(key, base, how), {}), frozen=base, based=True)
    return loop.task(
        model,
        tokenizer,
        stream,
        loss=loss,
        totals=totals,
        evaluators=evaluators,
        measures={"valid": scoring.NAMES},
        rules=lora.RULES,
        **({} if base is None else low_rank),
    )
