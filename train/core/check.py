"""`--check`: everything is built and nothing is trained.

What a run needs of memory and disk is said against what the machine has, part by part.
"""

import itertools
import math
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import transformer
from models.options import Options
from train.core import kept, shard, start
from train.core.launch import DIST, describe
from train.core.state import make_step

# A step is compiled for its exact memory where the parameters take less than this; larger models
# are compiled with `--check` only on request.
COMPILE_BYTES, COMPILE = 1 << 30, "FORMULARY_COMPILE"
_SHOWN = 96  # characters of the first row


def report(config, planned, batch, workdir, say=print) -> bool:
    """Prints what a run would be, from a loop's plan and first batch (numpy arrays).

    Returns whether memory and disk suffice; `workdir` is only asked for its disk's free space.
    """
    start.named(config, planned.task, say)
    sizes = {axis: size for axis, size in planned.mesh.shape.items() if size > 1}
    say(f"devices      {describe()}, mesh {sizes or 'of one device'}")
    leaves = jax.tree.leaves(planned.abstract.params)
    say(f"parameters   {sum(math.prod(x.shape) for x in leaves):,} in {len(leaves)} arrays")
    _say_batch(batch, planned.task, say)
    parts = {name: size for name, size in planned.bytes().items() if size}
    if parts["params"] < COMPILE_BYTES or os.environ.get(COMPILE) == "1":
        parts["activations (compiled)"] = temporaries(config, planned, batch)
        del parts["gradients"]  # among the compiled program's temporaries
    else:
        parts["activations (traced)"] = activations(config, planned, batch)
        say(f"note: activations are estimated; {COMPILE}=1 compiles the step to count them")
    say("memory per device")
    for name, size in parts.items():
        say(f"  {name:<24}{human(size):>12}")
    enough = _memory(sum(parts.values()), room(planned), say)
    for line in shard.left_out(planned.abstract.params, planned.mesh, planned.rules):
        say(f"note: {line}")
    return _disk(config, planned, workdir, say) and enough


def weigh(config, planned, say) -> None:
    """Says, before anything is allocated, what memory a run needs against what the machine has.

    Counted is what is sure: parameters, frozen ones too, optimiser, averages, gradients, the batch.
    ValueError if that alone is more than there is, unless config.allow_memory; what activations take is estimated and
    said (`--check` compiles the step and knows).
    """
    need, limit = sum(planned.bytes().values()), room(planned)
    rows = max(batch * length for _, length, batch in [(0, config.length, config.batch)]
               + [tuple(row) for row in config.get("phases", ())])  # fmt: skip
    need += 12 * rows // math.prod(planned.mesh.shape[axis] for axis in shard.BATCH_AXES)
    about = guess(config, planned)
    more = f", about {human(about)} for activations" if about else ""
    has = f"of {human(limit)} available" if limit else "(this device does not say its size)"
    each = " per device" if planned.mesh.size > 1 else ""
    say(f"memory: {human(need)}{each} for parameters, optimiser and gradients{more}, {has}")
    if not limit or need + about <= limit:
        return
    if need > limit and not config.get("allow_memory", False):
        raise ValueError(
            f"this run needs {human(need)} of memory{each} before its first activation; there is "
            f"{human(limit)}\nuse a smaller model, more devices (config.mesh.fsdp), or "
            "--config.allow_memory=true to try it"
        )
    say("note: that may not be enough; a larger config.micro or model.remat=full needs less")


def activations(config, planned, batch) -> int:
    """About how many bytes one micro-batch's activations take on one device, by a trace of the loss."""
    rows = {
        name: jax.ShapeDtypeStruct((x.shape[0] // config.micro, *x.shape[1:]), x.dtype)
        for name, x in _whole(batch).items()
    }
    return kept.bytes_per_device(planned.task, planned.mesh, planned.abstract, rows)


def guess(config, planned) -> int:
    """The same by a formula, for stacks of blocks over tokens, before there is a batch; else 0.

    Counts what a block keeps for its gradient: its input twice, both norms' outputs, queries, keys,
    values, the attention's output and the feed-forward's hidden units; with remat the input, and what
    its policy keeps of products, and one block.
    """
    if config.get("model", {}).get("kind", "") not in ("decoder", "encoder", "encdec"):
        return 0
    o = Options.of(config.model.to_dict())
    rows = math.prod(planned.mesh.shape[axis] for axis in shard.BATCH_AXES)
    tokens = config.batch * config.length // config.micro // rows
    hidden = (3 if o.gated else 2) * o.hidden * (o.experts_per_token if o.experts else 1)
    block = 4 * o.width + 2 * (o.heads + o.groups) * o.size + hidden
    products = o.width + 2 * (o.heads + o.groups) * o.size + hidden // 2
    each = {"none": block, "full": o.width}.get(transformer.policy(o), products)
    kept = o.layers * each + (block if each < block else 0)
    return tokens * kept * jax.dtypes.canonicalize_dtype(o.dtype).itemsize


def temporaries(config, planned, batch) -> int:
    """Bytes of one device that the compiled step needs beside its arguments, gradients included."""
    task = planned.task
    where = NamedSharding(planned.mesh, P(shard.BATCH_AXES))
    rows = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        for name, x in _whole(batch).items()
    }
    step = make_step(
        task, planned.tx, seed=config.seed, micro=config.micro, ema=config.optim.ema,
        schedule=planned.schedule, shardings=planned.shardings, guard=planned.guard, mask=planned.mask,
    )  # fmt: skip
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        planned.abstract,
        planned.shardings,
    )
    frozen = jax.eval_shape(lambda: task.frozen)
    with jax.set_mesh(planned.mesh):
        analysis = step.lower(placed, frozen, rows).compile().memory_analysis()
    return int(analysis.temp_size_in_bytes) if analysis else 0


def _whole(batch) -> dict:
    """Shapes of the batch of all processes, of whose rows this one has `batch`."""
    whole = lambda x: (x.shape[0] * jax.process_count(), *x.shape[1:])
    return {name: jax.ShapeDtypeStruct(whole(x), _narrow(x.dtype)) for name, x in batch.items()}


def human(size: float) -> str:
    """1,234 B, 12.3 KiB, 4.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return ""


def memory_limit() -> int:
    """Bytes that one device can give: its own memory, or its share of the host's free memory.

    Where the process is in a control group with a limit, that counts. 0 if unknown.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    if limit or device.platform != "cpu":
        return int(limit)
    beside = int(os.environ.get(DIST["local"], 1))  # processes that share this machine
    return host_memory() // jax.local_device_count() // beside


def host_memory() -> int:
    """Bytes of the host that are available to this process; 0 if unknown."""
    try:
        rows = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    found = dict(row.split(":", 1) for row in rows if ":" in row)
    free = int(found.get("MemAvailable", "0 kB").split()[0]) * 1024
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text().strip() if Path(path).is_file() else ""
        free = min(free, int(text)) if text.isdecimal() else free
    return free


def room(planned) -> int:
    """Bytes that one device can give a plan; what of it a host holds already is no longer free."""
    limit = memory_limit()
    if not limit or jax.local_devices()[0].platform != "cpu":
        return limit
    held = [x for x in jax.tree.leaves(planned.task.frozen) if isinstance(x, jax.Array)]
    each = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    shards = [each(x) * len(x.sharding.addressable_devices) for x in held]
    return limit + sum(shards) // jax.local_device_count()


def _memory(needed, limit, say) -> bool:
    enough = not limit or needed <= limit
    verdict = "" if enough else ": NOT ENOUGH"
    has = (
        f"of {human(limit)} available{verdict}" if limit else "(this device does not say its size)"
    )
    say(f"  {'together':<24}{human(needed):>12} {has}")
    return enough


def _disk(config, planned, workdir, say) -> bool:
    """Checkpoints kept, the best one too, and the one being written, against the free space."""
    state = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(planned.abstract))
    count = config.checkpoint.keep + 1 + bool(config.best.metric)
    folder = Path(workdir).resolve() if workdir else Path.cwd()
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(folder).free
    enough = state * count <= free
    verdict = "" if enough else ": NOT ENOUGH"
    say(
        f"disk         {human(state)} a checkpoint, {count} at most: {human(state * count)} of "
        f"{human(free)} free{verdict}"
    )
    return enough


def _say_batch(batch, task, say):
    shapes = ", ".join(f"{name} {list(x.shape)} {x.dtype}" for name, x in batch.items())
    say(f"first batch  {shapes}")
    text = beginning(batch, task)
    if text:
        say(f"  first row begins: {text!r}")


def beginning(batch, task) -> str:
    """The beginning of the first row as text, read with the tokenizer that the run would save."""
    from train.data.tokenizer import Tokenizer

    if "tokens" not in batch or not task.assets:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        task.assets(Path(folder))
        saved = Path(folder) / "tokenizer"
        if not saved.exists():
            return ""
        known = Tokenizer.load(saved)
        tokens = np.asarray(batch["tokens"])
        row = tokens.reshape(-1, tokens.shape[-1])[0, :_SHOWN].tolist()
        spelt = lambda ids: "".join(f"<{i}>" for i in ids)  # T5's sentinels, BART's mask
        runs = itertools.groupby(row, lambda i: 0 <= i < known.vocab)
        return "".join(known.decode([*ids]) if ours else spelt(ids) for ours, ids in runs)[:_SHOWN]


def _narrow(dtype):
    return jax.dtypes.canonicalize_dtype(dtype)
