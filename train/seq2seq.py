"""Sequence to sequence: translation, summaries, text to text; T5's and BART's pre-training.

    python -m train --config=configs/transformer.py:tiny --workdir=runs/a

`config.data.task`: "pairs" (`train.data.pairs`) or "denoise" (`train.data.denoised`). Loss: mean
negative log-likelihood of the target's tokens, each read after those before it (teacher forcing),
with `config.smoothing` of each label spread over the vocabulary (Vaswani et al. 2017, section 5.4).
Evaluation: that loss without smoothing on held-out pairs and, with `config.decode`, what beam search
writes for them (`eval.translate`). `config.average` n scores the test part with the mean of the last n
checkpoints (section 6.1), which is saved in `averaged/`; what is written for it stays in written.jsonl.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp

from eval import translate
from models import sides
from models.build import build
from models.options import Options
from models.settings import RULES
from train.core import average, checkpoint, loop, losses, meter, sections, shard
from train.core.fit import Fitted
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import denoised, pairs, text
from train.data import task as tasks

RESULTS, WRITTEN, SHOWN = "test.json", "written.jsonl", 3
NUMBERS = {"tokens": 0, "least": 8, "target_length": 0}  # of config.data
DECODE = {"beams": 4, "alpha": 0.6, "rule": "gnmt", "limit": -1, "test": 0}


def run(config, workdir) -> Fitted:
    """Trains, evaluates, saves, draws the curves and scores the test part."""
    o, tokenizer, stream, held = open_parts(config)
    task = make_task(config, o, tokenizer, stream, held.get("heldout"))
    fitted = loop.train(config, task, workdir)
    if fitted.stopped:
        return fitted
    variables = fitted.variables()
    if config.get("average", 0) > 1:
        variables = average.last(workdir, config.average, variables)
    rows = []
    if "test" in held:
        keep = lambda texts: rows.extend(_rows(held["test"], texts))
        found = _evaluator(config, o, tokenizer, held["test"], keep)(variables)
        found = {f"test/{name}": float(value) for name, value in found.items()}
        if jax.process_index() == 0:
            (Path(workdir) / RESULTS).write_text(json.dumps(found, indent=1) + "\n")
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (Path(workdir) / WRITTEN).write_text("".join(lines), encoding="utf-8")
            print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
        fitted.metrics.update(found)
    elif held and jax.process_count() == 1:
        rows = _some(config, o, tokenizer, held["heldout"], variables)
    for row in rows[:SHOWN]:
        print("\n" + "\n".join(f"--- {name} ---\n{text}" for name, text in row.items()))
    return fitted


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    o, tokenizer, stream, _ = open_parts(config)
    return plan(config, make_task(config, o, tokenizer, stream, None)), stream.batch(0)


def open_parts(config):
    """(options, tokenizer, stream, {part: its `batches` and, of pairs, `texts` and `references`});
    ValueError where they don't fit."""
    o = Options.of(config.model.to_dict())
    if o.kind != "encdec" or o.head != "lm":
        raise ValueError(
            f"config.model is a {o.kind} with head={o.head!r}; this loop trains an encdec with head=lm"
        )
    _how(config), _smoothing(config)
    kinds = {"pairs": _open_pairs, "denoise": _open_text}
    kind = config.data.get("task", "pairs")
    if kind not in kinds:
        raise ValueError(f"config.data.task is {kind!r}; expected pairs or denoise")
    return o, *kinds[kind](config, o)


def _open_text(config, o):
    tokenizer = text.load_tokenizer(config)
    tasks.same_start(config, tokenizer, checkpoint.find)
    _fits(denoised.extra(tokenizer, denoised.noise(config))[1], o)
    rows = loop.slices(config)
    stream = denoised.open_stream(config, tokenizer, "train", *rows)
    return tokenizer, stream, {"heldout": {"batches": denoised.heldout(config, tokenizer, *rows)}}


def _open_pairs(config, o):
    texts = pairs.open_texts(config)
    both = lambda: sorted({text for side in texts["train"] for text in side})
    tokenizer = tasks.open_tokenizer(config, checkpoint.find, both, encoder=False)
    tasks.refuse_other_tokens(config, tokenizer, checkpoint.find)
    _fits(tokenizer.vocab, o)
    if tokenizer.eos < 0:
        raise ValueError("the tokenizer has no end-of-text token, which ends sources and targets")
    pad = tokenizer.pad if tokenizer.pad >= 0 else tokenizer.eos
    truncate, parts = config.data.get("truncate", False), {}
    numbers = {name: config.data.get(name, usual) for name, usual in NUMBERS.items()}
    least, most = (0, None), (0, o.context)
    sections.within("data", numbers, {"tokens": least, "least": (1, None), "target_length": most})
    lengths = config.length, numbers["target_length"] or config.length
    for part, sides_ in texts.items():
        parts[part], cut = pairs.encode(sides_, tokenizer, lengths, pad, o.start, truncate)
        if jax.process_index() == 0:
            note = f", {cut} texts cut" if cut else ""
            print(f"{part} {len(parts[part]):,} pairs{note}", flush=True)
    rows, mesh = loop.slices(config), shard.mesh(config.mesh)
    unit = config.micro * mesh.shape["data"] * mesh.shape["fsdp"]
    bounds = pairs.buckets(max(lengths), numbers["least"])
    sizes = config.batch, numbers["tokens"], unit
    stream = pairs.Stream(parts["train"], config.seed, bounds, *sizes, *rows)
    stream.fingerprint["tokenizer"] = tokenizer.hash
    held = {}
    for part in [name for name in pairs.PARTS[1:] if name in parts]:
        batches = parts[part].batches(config.batch, bounds, *rows)
        own = {name: getattr(parts[part], name) for name in ("texts", "references")}
        held[part] = {"batches": batches, **own}
    return tokenizer, stream, held


def _fits(needed, o):
    if needed > o.vocab:
        raise ValueError(
            f"the tokenizer needs {needed} rows, config.model.vocab is {o.vocab}; "
            f"use --config.model.vocab={needed}"
        )


def make_task(config, o: Options, tokenizer, stream, held) -> Task:
    """The objective as pure functions; `held` (or None) has `batches` and perhaps `references`."""
    model, smooth = build(o), _smoothing(config)

    def totals(batch):
        return {"targets": jnp.maximum(batch["weights"].sum(), 1)}

    def loss(params, frozen, extra, batch, rng, totals):
        variables = {"params": params, **extra}
        rngs = {"dropout": rng} if o.dropout else {}
        given = {name: batch[name] for name in ("tokens", "mask", "decoder_tokens")}
        x, _ = model.apply(variables, given, method="features", rngs=rngs)
        head = lambda x: model.apply(variables, x, method="logits")
        value, sums = losses.cross_entropy(
            head, x, batch["targets"], batch["weights"], totals["targets"], smooth=smooth
        )
        return value, (extra, sums)

    evaluators = {} if held is None else {"heldout": _evaluator(config, o, tokenizer, held)}
    return loop.task(
        model, tokenizer, stream, loss=loss, totals=totals, evaluators=evaluators,
        measures={"heldout": translate.names(_how(config))}, flops=lambda batch: _flops(o, batch),
    )  # fmt: skip


def _evaluator(config, o, tokenizer, held, keep=None):
    """`run(variables)` on a part: its loss and, where it has references, what is written for it.

    `keep` is given for the test part, and gets the texts. Several processes measure the loss alone: a
    search is one process's.
    """
    how = _how(config)
    if keep and how["limit"] >= 0:
        how["limit"] = how["test"]
    if "references" not in held or jax.process_count() > 1:
        how["limit"] = -1
    eos = (tokenizer.eos,) if tokenizer else ()
    data = {"references": (), **held, "eos": eos}
    if tokenizer:
        data |= {"decode": pairs.written(tokenizer), "known": tokenizer.vocab}
    return translate.build(build(o), data, how, loop.placer(config), keep)


def _how(config) -> dict:
    """How evaluation searches: `config.decode`, the paper's by default. While training it does for the
    first `limit` held-out rows (0: all, -1: for no row ever), at the end for `test` of the test part's.
    ValueError names what is wrong."""
    how = sections.section(config, "decode", DECODE)
    limits = {"beams": (1, None), "alpha": (-10, 10), "limit": (-1, None), "test": (-1, None)}
    sections.within("decode", how, limits)
    sections.one_of("decode.rule", how["rule"], RULES)
    return how


def _smoothing(config) -> float:
    value = float(config.get("smoothing", 0.0))
    sections.share("smoothing", value)
    return value


def _flops(o: Options, batch) -> float:
    """Operations of a step: the encoder on the source, the decoder and head on the target."""
    (rows, long), wide = batch["tokens"].shape, batch["targets"].shape[1]
    source = rows * long * meter.flops_per_token(sides.encoder(o), long)
    return source + rows * wide * meter.flops_per_token(o, wide)


def _some(config, o, tokenizer, part, variables) -> list:
    """What is written for the part's first rows, as `_rows` has it; [] if nothing is searched for."""
    how = _how(config)
    if "references" not in part or how["limit"] < 0:
        return []
    batch = {name: x[:SHOWN] for name, x in part["batches"][0].items()}
    texts = translate.search(
        build(o), variables, [batch], pairs.written(tokenizer), (tokenizer.eos,), how,
        tokenizer.vocab,
    )  # fmt: skip
    return _rows(part, texts)


def _rows(part, texts) -> list:
    """Sources, what was written for them, and the references."""
    names = ("source", "written", "reference")
    rows = zip(part["texts"], texts, part["references"], strict=False)
    return [dict(zip(names, row, strict=True)) for row in rows]
