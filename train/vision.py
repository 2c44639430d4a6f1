"""Classification of images: from scratch, fine-tuned, distilled from another of our models.

    python -m train --config=configs/vit.py:tiny --workdir=runs/vit

Recipes are options: augmentation in `config.augment` (`train.data.prepare`), label smoothing in
`config.smooth`, stochastic depth in the model, averages and rates by layer in `config.optim` and
`config.layer_decay`. `config.distill` names a run of ours whose model, frozen, teaches (Touvron et
al. 2020, section 4): "hard", the mean of the labels' loss and that of the teacher's decisions; "soft",
(1 - weight) CE + weight T^2 KL at temperature T (Hinton et al. 2015). Of a model with two heads the
second one learns from the teacher; of others the only one from both.

A run that starts from `config.init` may have another resolution or other classes; `config.frozen_stats`
keeps batch normalisation as it was. With `data.task=multilabel` each class is a question of its own
(binary cross-entropy), to the teacher as well. What is evaluated was never trained on.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from eval import images as scoring
from models import interop, regrid
from models.build import IMAGES, build, example
from models.likelihood import pick
from models.options import Options
from train.core import checkpoint, loop, sections, shard
from train.core.fit import Fitted
from train.core.layerwise import layerwise
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import images, seen, workers

DISTILL = {"teacher": "", "kind": "hard", "temperature": 3.0, "weight": 0.5}
HEADS = ("classify", "distilled")


def run(config, workdir) -> Fitted:
    """Trains; what is evaluated is the held-out part."""
    config, o, parts = _open(config)
    taught = teacher(config, o, parts["train"].labels)
    stream = images.open_stream(config, parts["train"], *loop.slices(config))
    stream = workers.ahead(stream, config.data.get("workers", 0))
    said = ", ".join(f"{len(part):,} pictures to {name}" for name, part in parts.items())
    told = [f"{said}; {len(parts['train'].labels)} classes", rescaled(config)]
    if jax.process_index() == 0:
        print("\n".join(filter(None, told)), flush=True)
    try:
        return loop.train(config, make_task(config, o, parts, stream, taught), workdir)
    finally:
        if hasattr(stream, "close"):
            stream.close()


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    config, o, parts = _open(config)
    stream = images.open_stream(config, parts["train"], *loop.slices(config))
    taught = teacher(config, o, parts["train"].labels)
    return plan(config, make_task(config, o, parts, stream, taught)), stream.batch(0)


def _open(config):
    """(config with rates by layer, options, parts); ValueError where they don't fit each other."""
    config = config.copy_and_resolve_references().unlock()
    o = Options.of(config.model.to_dict())
    if o.kind not in IMAGES or o.head not in HEADS:
        raise ValueError(
            f"config.model is a {o.kind} with head={o.head!r}; classification of images needs one of "
            f"{', '.join(IMAGES)} with head={' or '.join(HEADS)}"
        )
    seen.fits(config, o)
    sections.share("smooth", config.get("smooth", 0.0))
    parts = images.parts(config)
    if o.labels != len(parts["train"].labels):
        raise ValueError(
            f"the data has {len(parts['train'].labels)} classes, config.model.labels is {o.labels}; "
            f"use --config.model.labels={len(parts['train'].labels)}"
        )
    decay = config.get("layer_decay", 1.0)
    if decay != 1.0:
        if o.kind != "vit":
            raise ValueError(f"config.layer_decay is for a stack of blocks, not for a {o.kind}")
        config.optim.multipliers = (*config.optim.multipliers, *layerwise(o, decay, config))
    return config.lock(), o, parts


def rescaled(config) -> str:
    """A warning where the model that config.init names knows pixels of another scale; "" where not."""
    init, own, told = config.get("init", {}), images.shape(config), None
    name = init.get("checkpoint", "") or init.get("reference", "")
    try:
        if init.get("checkpoint", ""):
            other = ConfigDict(checkpoint.read_config(checkpoint.find(name)))
            told = images.shape(other) if "mean" in other.get("data", {}) else None
        elif name:
            told = interop.told(name)
    except (OSError, ValueError):  # a run that resumes no longer needs what it started from
        return ""
    if told is None or not told.mean or len(told.mean) != len(own.mean):
        return ""
    if np.allclose([told.mean, told.deviation], [own.mean, own.deviation], atol=2e-3):
        return ""
    return (
        f"note: {name} was trained on pixels of mean {told.mean} and deviation {told.deviation}; "
        f"config.data has {own.mean} and {own.deviation}"
    )


def settings(config) -> dict:
    """config.distill with its defaults; ValueError for a kind that there is not."""
    how = {**DISTILL, **config.get("distill", {})}
    if how["kind"] not in ("hard", "soft") or how["temperature"] <= 0:
        raise ValueError(
            f"config.distill has kind={how['kind']!r} and temperature={how['temperature']}; expected "
            "hard or soft, and more than 0"
        )
    sections.within("distill", how, {"weight": (0, 1)})
    return how


def teacher(config, o: Options, labels=()):
    """(options, variables, how it reads the run's pixels) of the run that config.distill names, or None.

    ValueError for one of other classes than `labels`, or other pictures than the model's.
    """
    name = settings(config)["teacher"]
    if not name:
        if o.head == "distilled":
            raise ValueError(
                "model.head='distilled' has a head that learns from a teacher: name a run in "
                "config.distill.teacher, or use model.head='classify'"
            )
        return None
    folder = checkpoint.find(name)
    told, model, variables, _ = checkpoint.load_run(folder)
    other = model.o
    for field in ("labels", "channels"):
        if getattr(other, field) != getattr(o, field):
            raise ValueError(
                f"the teacher {name} has {field}={getattr(other, field)}, the model "
                f"{field}={getattr(o, field)}"
            )
    if not config.get("allow_mismatch", False):
        seen.same_classes(f"the teacher {name}", checkpoint.read_labels(folder), labels)
    return other, variables, seen.rescaling(config, told)


def make_task(config, o: Options, parts, stream, teacher=None) -> Task:
    """The objective as pure functions."""
    model, how = build(o), settings(config)
    many, smooth = parts["train"].targets.ndim > 1, config.get("smooth", 0.0)
    moving = not config.get("frozen_stats", False)
    tutor = build(teacher[0]) if teacher else None

    def totals(batch):
        return {"rows": jnp.maximum(batch["weights"].sum(), 1)}

    def loss(params, frozen, extra, batch, rng, totals):
        variables = {"params": params, **extra}
        heads, extra = forward(model, variables, batch, rng, moving)
        rows = mixed(heads[0], batch, many, smooth)
        if tutor:
            shown = {"images": seen.rescaled(batch["images"], teacher[2])}
            taught = jax.lax.stop_gradient(scoring.outputs(tutor, frozen["teacher"], shown))
            rows = distilled(rows, heads[-1], taught, many, how)
        weights = batch["weights"]
        value, count = (rows * weights).sum(), weights.sum()
        sums = {"nll": (value, count)}
        if not many and "share" not in batch:
            right = jnp.argmax(sum(heads), -1) == batch["targets"]
            sums["accuracy"] = (right * weights).sum(), count
        if "skipped" in batch:
            sums["skipped"] = batch["skipped"].sum(), jnp.float32(1)
        return value / totals["rows"], (extra, sums)

    task = "multilabel" if many else "classify"
    evaluators = {
        name: scoring.build(
            model, task, images.held(config, part, *loop.slices(config)), loop.placer(config)
        )
        for name, part in parts.items()
        if name != "train"
    }
    if config.eval.get("train", False):
        rows = images.sample(parts["train"], 2000)
        held = images.held(config, rows, *loop.slices(config))
        evaluators["train"] = scoring.build(model, task, held, loop.placer(config))
    each = 3.0 * operations(o)
    return loop.task(
        model,
        None,
        stream,
        loss=loss,
        totals=totals,
        evaluators=evaluators,
        measures=dict.fromkeys(evaluators, scoring.NAMES[task]),
        flops=lambda batch: each * batch["images"].shape[0],
        assets=lambda folder: checkpoint.write_labels(folder, parts["train"].labels),
        frozen={"teacher": teacher[1]} if teacher else (),
        rules=((r"^teacher/", P()), *shard.RULES),
        adopt=r"^(score|score_dist|head|pool|pool_norm)/|^embed/dist$",
        adapt=lambda given, shapes, before: regrid.fit(given, shapes, o, before),
        unit="images",
    )


def forward(model, variables, batch, rng, moving=True):
    """(the scores of each head, the new collections) in training."""
    o, given = model.o, {"images": batch["images"]}
    keys = jax.random.split(rng) if o.dropout else (None, None)
    rngs = [{"dropout": key} if o.dropout else {} for key in keys]
    extra = {name: x for name, x in variables.items() if name != "params"}
    mutable = list(extra) if moving else []
    (x, _), new = scoring.states(model, variables, given, rngs=rngs[0], mutable=mutable)
    method, more = ("both", ()) if o.head == "distilled" else ("scores", (given,))
    heads = model.apply(variables, x, *more, method=method, rngs=rngs[1])
    return (heads if o.head == "distilled" else (heads,)), {**extra, **new}


def mixed(scores, batch, many: bool, smooth: float):
    """The loss of each row in nats, float32 [B]; mixed pictures have two targets by their shares."""
    if many:
        targets = batch["targets"]
        if "share" in batch:
            share = batch["share"][:, None]
            targets = share * targets + (1 - share) * batch["others"]
        return scoring.binary(scores, (1 - smooth) * targets + smooth / 2).mean(-1)
    rows = -pick(scores, batch["targets"], smooth)
    if "share" in batch:
        rows = batch["share"] * rows - (1 - batch["share"]) * pick(scores, batch["others"], smooth)
    return rows


def distilled(rows, scores, taught, many: bool, how: dict):
    """The loss of each row with the teacher's part, Touvron et al. 2020, equations 2 and 3.

    Of many labels each is a decision of its own, and soft ones are compared likewise.
    """
    t = how["temperature"]
    if many and how["kind"] == "hard":
        extra = scoring.binary(scores, (taught > 0).astype(jnp.float32)).mean(-1)
    elif many:
        theirs = jax.nn.sigmoid(taught / t)
        apart = scoring.binary(scores / t, theirs) - scoring.binary(taught / t, theirs)
        extra = t * t * apart.mean(-1)
    elif how["kind"] == "hard":
        extra = -pick(scores, jnp.argmax(taught, -1).astype(jnp.int32))
    else:
        ours, theirs = jax.nn.log_softmax(scores / t), jax.nn.log_softmax(taught / t)
        extra = t * t * jnp.sum(jnp.exp(theirs) * (theirs - ours), -1)
    return (1 - how["weight"]) * rows + how["weight"] * extra


def operations(o: Options) -> float:
    """Floating point operations of one image forward, as XLA counts them before it optimises."""
    o = o.replace(scan=False, dtype="float32")
    model, batch = build(o), jax.eval_shape(lambda: example(o))
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    found = jax.jit(model.apply).lower(variables, batch).cost_analysis()
    return float((found or {}).get("flops", 0.0))
