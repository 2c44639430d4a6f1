"""Policies from comparisons without a reward model: DPO, IPO, cDPO, KTO and their kin.

    python -m train --config=configs/preference.py:tiny --workdir=runs/dpo

Loss: `config.preference.loss` (`train.core.preferences`) of the log-ratios of policy and frozen
reference, sums over an answer's tokens with its end and without its prompt; `preference.mean` "tokens"
divides by their number (TRL's IPO). `preference.sft` adds that much of the chosen answers' mean negative
log-likelihood, for where the chosen's probability falls too far: that it falls is usual, and `chosen`
in the metrics shows it. `preference.divergence` holds the policy by another divergence than KL's, and
`preference.excess` below 1 discounts what stands behind the shorter answer's length. KTO reads answers
judged one by one (`train.data.judgements`), or comparisons.
Policy and reference start as `config.init`; `config.reference` may name another reference, of the same
tokens. Dropout is off. With LoRA the reference is the frozen model.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from eval import answers as every
from models.build import build
from models.likelihood import of_tokens
from models.options import Options
from train.core import checkpoint, loop, lora, origin, paired, preferences, start
from train.core.errors import nearest
from train.core.fit import Fitted
from train.core.plan import Plan, plan
from train.core.sections import one_of, within
from train.core.state import Task
from train.data import answers, compared, instructions, judgements
from train.data import preferences as data
from train.data import task as tasks

DEFAULTS = {
    "loss": "dpo",
    "beta": 0.1,
    "wrong": 0.0,
    "sft": 0.0,
    "mean": "none",
    "good": 1.0,
    "bad": 1.0,
    "divergence": "reverse_kl",
    "excess": 1.0,
}


def run(config, workdir) -> Fitted:
    """Trains and saves; with LoRA writes a PEFT folder."""
    config, o, tokenizer, stream, held = _open(config)
    frozen = origin.placed(reference(config, o), config)
    task = make_task(config, o, tokenizer, stream, held, frozen)
    fitted = loop.train(config, task, workdir)
    if lora.settings(config)["rank"] and not fitted.stopped and jax.process_index() == 0:
        lora.write(config, o, fitted.variables()["params"], Path(workdir) / "adapter")
    return fitted


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    config, o, tokenizer, stream, _ = _open(config)
    return plan(config, make_task(config, o, tokenizer, stream, None, origin.zeros(o))), (
        stream.batch(0)
    )


def settings(config) -> dict:
    """`config.preference` with its defaults; ValueError names what there is not."""
    given = dict(config.get("preference", {}))
    for name in given:
        if name not in DEFAULTS:
            raise ValueError(f"config.preference has no field {name!r}; {nearest(name, DEFAULTS)}")
    found = {**DEFAULTS, **given}
    known = (*preferences.LOSSES, *preferences.WHOLE, "kto")
    if found["loss"] not in known:
        raise ValueError(
            f"config.preference.loss is {found['loss']!r}; {nearest(found['loss'], known)}"
        )
    if found["mean"] not in preferences.MEANS or not found["beta"] > 0:
        raise ValueError(
            f"config.preference has mean={found['mean']!r} and beta={found['beta']}; expected "
            f"{' or '.join(preferences.MEANS)}, and beta above 0"
        )
    one_of("preference.divergence", found["divergence"], preferences.DIVERGENCES)
    limits = {"sft": (0, None), "good": (0, None), "bad": (0, None), "excess": (0, 1)}
    within("preference", found, limits)
    single, mean = found["loss"] == "kto", found["mean"] != "none"
    own = ("mean", "excess") * (found["loss"] in paired.AHEAD) + ("sft",) * single
    idle = [name for name in own if found[name] != DEFAULTS[name]]
    idle += ["divergence"] * bool(
        found["loss"] not in preferences.DIVERGENT and found["divergence"] != "reverse_kl"
    )
    idle += [name for name in ("good", "bad") if not single and found[name] != DEFAULTS[name]]
    idle += ["wrong"] * bool(found["wrong"] and found["loss"] not in preferences.SMOOTHED)
    if idle:
        raise ValueError(
            f"config.preference.{idle[0]}={found[idle[0]]!r} has no part in the loss {found['loss']}; "
            f"expected {DEFAULTS[idle[0]]!r}"
        )
    if found["excess"] != 1 and mean:
        raise ValueError("config.preference.excess weighs an answer's sum; expected mean='none'")
    if found["loss"].startswith("aot") and config.micro > 1:
        raise ValueError(
            f"the loss {found['loss']} sorts a whole batch; expected config.micro=1, not {config.micro}"
        )
    return found


def reference(config, o: Options) -> dict:
    """The frozen parameters: of `config.reference`, else of `config.init`, else the fresh policy's."""
    given = config.get("reference", {})
    named = bool(given) and bool(given.get("checkpoint", "") or given.get("reference", ""))
    if named and lora.settings(config)["rank"]:
        raise ValueError(
            "with LoRA the reference is the frozen model; config.reference has no place"
        )
    if named:
        origin.refuse_other_model(given, o, "config.reference")
    return origin.params(given if named else config.init, o, config.seed)


def _open(config):
    """(config, options, tokenizer, stream, held-out batches); ValueError where they don't fit."""
    config = config.copy_and_resolve_references().unlock()
    o = origin.quiet(origin.options(config))
    config.model = o.plain()
    origin.check_policy(o)
    how = settings(config)
    single = how["loss"] == "kto"
    parts = judgements.open_parts(config) if single else data.open_parts(config)[0]
    texts = lambda: compared.texts(parts["train"])
    tokenizer = tasks.open_tokenizer(config, checkpoint.find, texts, encoder=False)
    tasks.refuse_other_tokens(config, tokenizer, checkpoint.find)
    loop.fits(o, tokenizer)
    tokenizer.chat_template = origin.template(config, tokenizer)
    tasks.same_tokens(config.get("reference", {}), tokenizer, checkpoint.find, "config.reference")
    dialogue = instructions.Dialogue(tokenizer, tokenizer.chat_template)
    fill, makes, about = max(tokenizer.pad, 0), {}, {"tokenizer": tokenizer.hash}
    for part, found in parts.items():
        rows = compared.written(found, dialogue)
        truncate = bool(config.data.get("truncate", False))
        rows, found, out = compared.fitting(rows, found, config.length, truncate)
        if single:
            both, make = _judged(rows, found, dialogue, config.length, fill)
            words = f"{sum(good for *_, good in both):,} of {len(both):,} answers good"
        else:
            both = compared.pairs(rows, found)
            make, words = compared.sided(both, config.length, fill), f"{len(both):,} pairs"
        if not both:
            raise ValueError(f"config.data: nothing to compare is left in the {part} part")
        if jax.process_index() == 0:
            print(f"{part} {words}, {out} rows left out", flush=True)
        makes[part], about[part] = (make, len(both)), answers.digest(_key(rows, found))
    about[start.HOW] = {"preference.loss": how["loss"]}
    stream = answers.Stream(*makes["train"], config, *loop.slices(config), about)
    held = None
    if "valid" in makes and makes["valid"][1] >= 2:
        held = every.every(*makes["valid"], config.batch, *loop.slices(config))
    return config.lock(), o, tokenizer, stream, held


def _judged(rows, found, dialogue, length, fill):
    """([(row, number of its prompt, whether it is good)], make(numbers) -> a batch)."""
    if len(found) < 2:
        raise ValueError(
            "KTO compares an answer with another prompt's; expected at least 2 prompts"
        )
    names = [repr(item.prompt) for item in found]
    if len(set(names)) == 1:  # no other prompt: other answers to the same one
        names = list(range(len(found)))
    number = {name: at for at, name in enumerate(dict.fromkeys(names))}
    prompts = [dialogue.prompt(found[names.index(name)].prompt) for name in number]
    single = [
        (answer, number[name], good)
        for row, item, name in zip(rows, found, names, strict=True)
        for answer, good in judgements.judged(row, item)
    ]
    return single, compared.judged(single, prompts, length, fill)


def _key(rows, found) -> list:
    """What a run's fingerprint is made of: pairs, or answers with what was said of them."""
    single = [isinstance(item, judgements.Judgement) for item in found]
    if not any(single):
        return [list(pair) for pair in compared.pairs(rows, found)]
    return [[*row[0], item.good] for row, item in zip(rows, found, strict=True)]


def make_task(config, o: Options, tokenizer, stream, held, frozen) -> Task:
    """The objective as pure functions; frozen: the reference, or its shapes."""
    model, how, adapt = build(o), settings(config), lora.settings(config)
    whole = lambda params, frozen: lora.merge(frozen, params, adapt) if adapt["rank"] else params
    single = how["loss"] == "kto"
    measure = paired.single if single else paired.pairs

    def totals(batch):
        real = batch.get("rows", jnp.ones(batch["tokens"].shape[0]))
        chosen = (batch["weights"][:, 0] * real[:, None]).sum()
        return {"rows": jnp.maximum(real.sum(), 1), "tokens": jnp.maximum(chosen, 1)}

    def sides(params, frozen, extra, batch):
        flat = {n: batch[n].reshape(-1, batch[n].shape[-1]) for n in ("tokens", "mask")}
        ours, _ = of_tokens(model, {"params": whole(params, frozen), **extra}, flat)
        theirs, _ = of_tokens(model, {"params": frozen}, flat)
        return [x.reshape(batch["tokens"].shape) for x in (ours, jax.lax.stop_gradient(theirs))]

    def loss(params, frozen, extra, batch, rng, totals):
        batch = paired.side(batch, slice(0, 1)) if single else batch
        value, sums = measure(*sides(params, frozen, extra, batch), batch, how, totals)
        return value, (extra, sums)

    def window(params, frozen, extra, batch):
        batch = paired.side(batch, slice(1, 2)) if single else batch
        found = paired.log_ratios(*sides(params, frozen, extra, batch), batch)
        return {"mismatched" if single else "both": found.sum()}

    evaluators = {}
    if held is not None:
        ahead = window if how["loss"] in paired.AHEAD else lambda *_: {}
        evaluators["valid"] = _evaluator(loss, totals, ahead, frozen, held, loop.placer(config))
    low_rank = dict(init=lambda key: (lora.init(key, frozen, adapt), {}), based=True)
    return loop.task(
        model,
        tokenizer,
        stream,
        loss=loss,
        totals=totals,
        evaluators=evaluators,
        frozen=frozen,
        dropout=False,
        window=window if how["loss"] in paired.AHEAD else None,
        rules=lora.RULES,
        flops=lambda batch: (
            (1 if single else 4 / 3)
            * loop.flops(o, {"tokens": batch["tokens"].reshape(-1, batch["tokens"].shape[-1])})
        ),
        **(low_rank if adapt["rank"] else {}),
    )


def _evaluator(loss, totals, window, frozen, held, place):
    """`run(variables)`: the loss and its metrics over the held-out pairs."""

    @jax.jit
    def score(variables, frozen, batch):
        extra = {name: x for name, x in variables.items() if name != "params"}
        found = {**totals(batch), **window(variables["params"], frozen, extra, batch)}
        value, (_, sums) = loss(variables["params"], frozen, extra, batch, None, found)
        return {"loss": (value * found["rows"], found["rows"]), **sums}

    def run(variables) -> dict:
        sums = [jax.device_get(score(variables, frozen, place(batch))) for batch in held]
        total = {name: np.sum([each[name] for each in sums], 0) for name in sums[0]}
        return {name: float(s / max(n, 1e-9)) for name, (s, n) in total.items()}

    return run
