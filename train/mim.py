"""Masked image modelling: BEiT's visual tokens, or the pixels themselves.

    python -m train --config=configs/beit.py:tiny --workdir=runs/beit

With `model.head=masked` (Bao et al. 2021) the model sees a picture some of whose patches are replaced by
a learned token, and predicts the code that a frozen tokenizer of ours (`config.tokenizer`, a run of
`train.dvae`; BEiT's own is DALL-E's) gives each of them: mean negative log-likelihood over all masked
patches of the batch. With `model.head=pixels` it predicts their pixels, L1 (Xie et al. 2021, SimMIM).
MAE's encoder, which leaves masked patches out, is not here. `eval.neighbours` asks how well 20 nearest
neighbours classify by the pooled states, among that many training pictures.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from eval import probe
from models.build import build
from models.likelihood import pick
from models.options import Options
from models.pixels import pixel_sums
from train.core import checkpoint, loop, shard
from train.core.fit import Fitted
from train.core.plan import Plan, plan
from train.core.state import Task
from train.data import images, seen, visual, workers

MASK = {"kind": "blocks", "share": 0.4, "least": 4}
HEADS = ("masked", "pixels")
BATCH_NORM = (
    "config.model.norm='batch' has running statistics, which masked pre-training does not keep; "
    "expected layer or rms"
)


def run(config, workdir) -> Fitted:
    """Pre-trains."""
    o, parts, tutor = _open(config)
    return loop.train(
        config, make_task(config, o, parts, _stream(config, o, parts), tutor), workdir
    )


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    o, parts, tutor = _open(config)
    stream = _stream(config, o, parts)
    return plan(config, make_task(config, o, parts, stream, tutor)), stream.batch(0)


def _open(config):
    """(options, parts, the tokenizer (its options, variables, `seen.rescaling`) or None); ValueError."""
    o = Options.of(config.model.to_dict())
    if o.kind not in ("vit", "swin") or o.head not in HEADS or not o.mask_token:
        raise ValueError(
            f"config.model is a {o.kind} with head={o.head!r} and mask_token={o.mask_token}; masked "
            "image modelling needs a vit (or a swin) with a mask token and head=masked or pixels"
        )
    if o.norm == "batch":
        raise ValueError(BATCH_NORM)
    seen.fits(config, o)
    parts, tutor = images.parts(config), None
    if o.head == "masked":
        tutor = _tokenizer(config, o)
    return o, parts, tutor


def _tokenizer(config, o: Options):
    name = config.get("tokenizer", "")
    if not name:
        raise ValueError(
            "model.head='masked' predicts visual tokens: name a run of train.dvae in "
            "config.tokenizer (python -m train --config=configs/beit.py:tokenizer ...)"
        )
    told, model, variables, _ = checkpoint.load_run(name)
    other = model.o
    if other.kind != "dvae":
        raise ValueError(f"config.tokenizer={name} is a {other.kind}, no tokenizer of images")
    for field in ("image_size", "patch", "channels", "vocab"):
        if getattr(other, field) != getattr(o, field):
            raise ValueError(
                f"the tokenizer {name} has {field}={getattr(other, field)}, the model "
                f"{field}={getattr(o, field)}"
            )
    return other, variables, seen.rescaling(config, told)


def _stream(config, o: Options, parts):
    how: Mapping = {**MASK, **config.get("mask", {})}
    stream = images.open_stream(config, parts["train"], *loop.slices(config))
    count = round(how["share"] * o.grid[0] * o.grid[1])
    stream = visual.Masked(stream, o.grid, count, how["kind"], how["least"])
    return workers.ahead(stream, config.data.get("workers", 0))


def make_task(config, o: Options, parts, stream, tutor=None) -> Task:
    """The objective as pure functions; `tutor` is what `_open` gives."""
    model, tokenizer = build(o), build(tutor[0]) if tutor else None
    sides = o.patch_sides

    def totals(batch):
        return {"patches": jnp.maximum(batch["masked"].sum(), 1)}

    def states(params, batch, rng):
        given = {"images": batch["images"], "masked": batch["masked"]}
        rngs = {"dropout": rng} if o.dropout else {}
        x, _ = model.apply({"params": params}, given, method="features", rngs=rngs)
        return x, given

    def tokens(params, frozen, extra, batch, rng, totals):
        shown = seen.rescaled(batch["images"], tutor[2])
        codes = tokenizer.apply(frozen["tokenizer"], shown, method="tokens")
        x, _ = states(params, batch, rng)
        logits = model.apply({"params": params}, x, method="logits")
        nats, right = -pick(logits, codes), jnp.argmax(logits, -1) == codes
        count = batch["masked"].sum()
        sums = {"nll": ((nats * batch["masked"]).sum(), count)}
        sums["accuracy"] = (right * batch["masked"]).sum(), count
        return sums["nll"][0] / totals["patches"], (extra, sums)

    def pixels(params, frozen, extra, batch, rng, totals):
        x, given = states(params, batch, rng)
        made = model.apply({"params": params}, x, given, method="pixels")
        summed, count = pixel_sums(batch["images"], made, batch["masked"], sides)
        each = summed / (o.channels * np.prod(sides))
        sums = {"error": (summed, count * o.channels)}
        return each / totals["patches"], (extra, sums)

    evaluators, rows = {}, config.eval.get("neighbours", 0)
    if rows and "valid" in parts:
        evaluators["valid"] = _neighbours(config, model, parts, rows)
    return loop.task(
        model,
        None,
        stream,
        loss=tokens if tokenizer else pixels,
        totals=totals,
        evaluators=evaluators,
        flops=None,
        assets=lambda folder: None,
        frozen={"tokenizer": tutor[1]} if tutor else (),
        rules=((r"^tokenizer/", P()), *shard.RULES),
        unit="images",
    )


def _neighbours(config, model, parts, rows: int):
    """An evaluator: how well nearest neighbours classify the held-out part."""
    few, own = images.sample(parts["train"], rows), loop.slices(config)
    held = images.held(config, few, *own, whole=True), images.held(config, parts["valid"], *own)
    place = loop.placer(config)

    def run(variables) -> dict:
        sides = [probe.features(model, variables, batches, place) for batches in held]
        return {"neighbours": probe.neighbours(*sides)}

    return run
