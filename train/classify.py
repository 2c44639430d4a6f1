"""Fine-tuning of an encoder for any head: labels, numbers, tags, choices, answers, embeddings.

    python -m train --config=configs/sentiment.py:tiny --workdir=runs/a

Starts from `config.init` (a run of ours, a reference folder) or from scratch. `model.head="none"`
takes the head that `data.task` asks for, with as many labels as the data has. The whole model, a part
(`optim.freeze`), or low-rank adapters (`config.lora`) are trained; `layer_decay` d multiplies the rate
of layer i of L by d^(L-i) (Howard and Ruder 2018). `config.best` keeps the best checkpoint by a
validation metric and stops early; the test part is scored once, with it.

Losses: negative log-likelihood of the label (by `data.class_weights`), of tags, of the right choice;
the mean of that of start and end; squared error; and for embeddings that of a query's own passage
among all of the batch, cosines over `data.temperature` (Henderson et al. 2017; micro-batches see only
their own passages; copies of a query's passages are not its negatives).
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from eval import classify as scoring
from eval import retrieval
from models.build import build, shapes
from models.likelihood import pick
from models.options import Options
from train.core import best, checkpoint, forms, loop, lora, origin, sections, shard
from train.core.config import DEFAULTS
from train.core.fit import Fitted, fit
from train.core.layerwise import layerwise
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import encode, labelled
from train.data import task as tasks

RESULTS = "test.json"


def run(config, workdir) -> Fitted:
    """Trains, keeps the best, scores the test part with it; with LoRA writes a PEFT folder."""
    config, o, material, stream = _open(config)
    if jax.process_index() == 0:
        print("; ".join(f"{name} {x:,}" for name, x in material.counts.items()), flush=True)
    base = None
    if lora.settings(config)["rank"]:
        base = origin.placed(lora.base(config, o), config)
    task = make_task(config, o, material, stream, base)
    fitted = fit(config, task, workdir)
    if not fitted.stopped:
        variables = _best(config, fitted, workdir)
        if base is not None and jax.process_index() == 0:
            lora.write(config, o, variables["params"], Path(workdir) / "adapter", base)
        if "test" in material.rows:
            found = evaluator(config, o, material, "test", base)(variables)
            found = {f"test/{name}": float(value) for name, value in found.items()}
            if jax.process_index() == 0:
                (Path(workdir) / RESULTS).write_text(json.dumps(found, indent=1) + "\n")
                print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
            fitted.metrics.update(found)
    return fitted


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    config, o, material, stream = _open(config)
    base = None
    if lora.settings(config)["rank"]:
        base = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes(o))
    task = make_task(config, o, material, stream, base)
    best.expect(config, task)
    return plan(config, task), stream.batch(0)


def _open(config):
    """(config with what was found out, options, material, stream); ValueError where they don't fit."""
    config = config.copy_and_resolve_references().unlock()
    sections.section(config, "data", {**DEFAULTS["data"], **labelled.FIELDS})
    task = config.data.get("task", "classify")
    heads = labelled.HEADS.get(task, ())
    if config.init.get("model", False):
        config.model = origin.inherited(config).plain()
    o = Options.of(config.model.to_dict())
    if o.kind != "encoder" or (heads and o.head not in ("none", *heads)):
        raise ValueError(
            f"config.data.task={task!r} needs an encoder with model.head={heads[0]!r}; config.model "
            f"is a {o.kind} with head={o.head!r}"
        )
    tokenizer = tasks.open_tokenizer(config, checkpoint.find)
    loop.fits(o, tokenizer)
    material = tasks.open_material(config, tokenizer)
    wanted = 1 if task == "regress" else len(material.labels)
    if o.head == "none":
        o = o.replace(head=heads[0], labels=wanted)
        config.model = o.plain()
    if wanted and o.labels != wanted:
        raise ValueError(
            f"the data has {wanted} labels, config.model.labels is {o.labels}; "
            f"use --config.model.labels={wanted}{_named(material.labels)}"
        )
    about = {"task": task, "labels": list(material.labels), "tokenizer": tokenizer.hash}
    stream = encode.Stream(
        material.rows["train"], config.seed, config.batch, *loop.slices(config), about,
        pool=config.data.get("pool", 0),
    )  # fmt: skip
    decay = config.get("layer_decay", 1.0)
    if decay != 1.0:
        config.optim.multipliers = (*config.optim.multipliers, *layerwise(o, decay, config))
    return config.lock(), o, material, stream


def _named(labels) -> str:
    """The first labels in words, to show which one is too many."""
    more = ", ..." if len(labels) > 10 else ""
    return f"\nlabels: {', '.join(map(repr, labels[:10]))}{more}" if labels else ""


def make_task(config, o: Options, material, stream, base=None) -> Task:
    """The objective as pure functions. base: with LoRA the frozen parameters, or their shapes."""
    model, kind, how = build(o), material.task, lora.settings(config)
    weights = class_weights(config, material)
    temperature = float(config.data.get("temperature", 0.05))

    def counted(batch):
        return (
            batch["weights"] * weights[batch["targets"]]
            if weights is not None
            else batch["weights"]
        )

    def totals(batch):
        return {"rows": jnp.maximum(counted(batch).sum(), 1e-9)}

    def loss(params, frozen, extra, batch, rng, totals):
        whole = params if base is None else lora.merge(frozen, params, how)
        more = {"rngs": {"dropout": rng}} if o.dropout else {}
        scores = scoring.outputs(model, {"params": whole, **extra}, batch, kind, **more)
        nats, right = objective(kind, scores, batch, temperature)
        count = counted(batch)
        value = (nats * count).sum()
        sums = {"nll": (value, count.sum())}
        if right is not None:
            sums["accuracy"] = (right * batch["weights"]).sum(), batch["weights"].sum()
        return value / totals["rows"], (extra, sums)

    evaluators, measures = {}, {}
    if "valid" in material.rows:
        evaluators["valid"] = evaluator(config, o, material, "valid", base)
        ranked = "groups" in material.rows["valid"].extra
        measures["valid"] = scoring.names(kind, material.labels, ranked)
    low_rank = dict(init=lambda key: (lora.init(key, base, how), {}), frozen=base, based=True)
    return loop.task(
        model,
        material.tokenizer,
        stream,
        loss=loss,
        totals=totals,
        evaluators=evaluators,
        measures=measures,
        rules=lora.RULES,
        adopt=r"^(score|head|pool)/",
        assets=lambda folder: _write_assets(folder, material),
        **({} if base is None else low_rank),
    )


def _write_assets(folder, material):
    material.tokenizer.save(Path(folder) / "tokenizer")
    if material.labels:
        checkpoint.write_labels(folder, material.labels)


def objective(kind: str, scores, batch, temperature: float):
    """(loss of each row or token, whether it is right or None), float32 of the shape of `weights`."""
    targets = batch["targets"]
    if kind == "regress":
        return jnp.square(scores[:, 0] - targets), None
    if kind == "spans":
        ends = jnp.swapaxes(scores, 1, 2)  # [B,2,T]
        nats = -pick(ends, targets).mean(1)
        return nats, (jnp.argmax(ends, -1) == targets).all(1)
    if kind == "embed":
        scores, targets = contrast(scores, batch["tokens"]) / temperature, jnp.arange(len(targets))
    return -pick(scores, targets), jnp.argmax(scores, -1) == targets


def contrast(vectors, tokens):
    """Cosines of the queries with all passages of the batch, float32 [n, n (k - 1)], -1e9 for no negative.

    vectors [n k, D] and tokens [n, k, T] of a query, its passage, and further negatives; column i is
    row i's passage. No negatives of a query are the copies of its passages, those of its other rows too.
    """
    n, k, _ = tokens.shape
    by_part = lambda x: jnp.swapaxes(x.reshape(n, k, -1)[:, 1:], 0, 1).reshape(n * (k - 1), -1)
    scores = vectors.reshape(n, k, -1)[:, 0] @ by_part(vectors).T
    equal = lambda a, b: (a[:, None] == b[None]).all(-1)
    query, own = tokens[:, 0], tokens[:, 1]
    copies = equal(own, by_part(tokens)).astype(jnp.float32)
    positive = equal(query, query).astype(jnp.float32) @ copies > 0
    return jnp.where(positive & ~jnp.eye(n, n * (k - 1), dtype=bool), -1e9, scores)


def class_weights(config, material):
    """float32 [C] or None: `data.class_weights`, or with `data.balanced` n / (C * count of each)."""
    given = tuple(config.data.get("class_weights", ()))
    balanced = config.data.get("balanced", False)
    if not given and not balanced:
        return None
    count = len(material.labels)
    if balanced and material.task != "classify":
        raise ValueError(
            f"config.data.balanced weighs the labels of task classify; the task is {material.task}"
        )
    if material.task != "classify" or (given and (len(given) != count or min(given) < 0)):
        raise ValueError(
            f"config.data.class_weights={given}: expected {count} weights of at least 0, for "
            f"{', '.join(map(str, material.labels))} (task classify)"
        )
    if given:
        return jnp.asarray(given, jnp.float32)
    counts = np.bincount(material.rows["train"].targets, minlength=count)
    return jnp.asarray(counts.sum() / (count * np.maximum(counts, 1)), jnp.float32)


def evaluator(config, o: Options, material, part: str, base=None):
    """`run(variables) -> {name: float}` of one part; with LoRA the variables hold the adapters."""
    rows, kind = material.rows[part], material.task
    place, slices = loop.placer(config), loop.slices(config)
    data = {"targets": rows.targets, "labels": material.labels, **rows.extra}
    data.update({n: config.data[n] for n in ("threshold", "longest") if n in config.data})
    if kind == "embed":
        run = _search(config, o, rows, place, slices)
    else:
        data["batches"] = rows.batches(config.batch, *slices)
        run = scoring.build(build(o), kind, data, place)
    if base is None:
        return run
    merge = jax.jit(lambda base, params: lora.merge(base, params, lora.settings(config)))
    return lambda variables: run({**variables, "params": merge(base, variables["params"])})


def _search(config, o, rows, place, slices):
    """The distinct queries against the distinct passages of the part."""
    model = build(o)
    score = jax.jit(lambda v, batch: scoring.outputs(model, v, batch, "embed"))
    sides = [[parts[side][0].tobytes() for parts in rows.parts] for side in (0, 1)]
    queries, passages, relevant = retrieval.gather(*sides)

    def single(numbers, side):
        parts = [[rows.parts[n][side]] for n in numbers]
        made = encode.Rows("classify", rows.length, rows.pad, parts, [0] * len(parts))
        return made.batches(config.batch, *slices)

    data = {"queries": single(queries, 0), "passages": single(passages, 1), "relevant": relevant}
    return retrieval.build(lambda v, batches: scoring.collect(score, v, batches, place), data)


def _best(config, fitted, workdir) -> dict:
    """The variables of the best checkpoint by `config.best`, or the last ones."""
    if not config.best.metric:
        return fitted.variables()
    folder = checkpoint.find(Path(workdir) / "best")
    params, extra = checkpoint.load_params(folder)
    params = forms.back(params, forms.nest(fitted.state.params))
    whole = {"params": params, **extra}
    return shard.laid(whole, fitted.plan.mesh, fitted.plan.rules)
