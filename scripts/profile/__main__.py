"""Where the time goes: a table of operations from a trace, joined to the compiled program.

    python -m scripts.profile --family gpt2 --size 12m --batch 4 --length 256
    python -m scripts.profile --size 124m --variant remat=full --save before.json
    python -m scripts.profile --size 124m --what decode --rows 1 --new 32
    python -m scripts.profile --size 124m --what rollout --rows 8 --new 32         (a round of PPO)
    python -m scripts.profile --config=configs/gpt2.py:tiny --config.batch=4     (its own data)

Traces `--steps` steps of the trainer (or generations) after two to warm up, and prints three tables:
by kind (products in the library, products outside of it, elementwise fusions, reductions, copies), by
place (the module's path, layers pooled, forward or backward), and the longest operations. Times are
those of operations on the wall clock, a step's mean; operations that run side by side both count, so
that the sum may exceed the step. `--save` keeps everything, every operation included, as JSON.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from scripts.bench import sizes, tables
from scripts.bench.lanes import say
from scripts.profile import trace
from train.core import pages
from train.core.errors import Parser, cleanly


def parser() -> Parser:
    """The arguments; `--config.x=y` may follow a `--config`."""
    made = Parser(prog="python -m scripts.profile", description=__doc__)
    made.add_argument("--config", default="", help="a config file, instead of family and size")
    made.add_argument("--family", default="gpt2")
    made.add_argument("--size", default="12m")
    made.add_argument("--variant", default="", help="option=value,... of the model")
    made.add_argument("--what", choices=("train", "decode", "rollout"), default="train")
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--length", type=int, default=256)
    made.add_argument("--rows", type=int, default=1, help="decode, rollout: prompts")
    made.add_argument("--prompt", type=int, default=32, help="decode, rollout: tokens of a prompt")
    made.add_argument("--beams", type=int, default=1, help="decode: beams")
    made.add_argument("--new", type=int, default=32, help="decode, rollout: new tokens")
    made.add_argument("--steps", type=int, default=3, help="steps in the trace")
    made.add_argument("--top", type=int, default=20, help="operations in the last table")
    made.add_argument("--save", default="", help="keep the result as JSON")
    return made


@cleanly
def main(argv=None) -> int:
    """Traces, prints, saves."""
    words = sys.argv[1:] if argv is None else list(argv)
    overrides = [word for word in words if word.startswith("--config.")]
    args = parser().parse_args([word for word in words if word not in overrides])
    if args.steps < 1:
        raise ValueError(f"--steps is {args.steps}; expected at least 1")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, overrides, Path(folder))
    print(show(result, args.top))
    if args.save:
        tables.keep(result, args.save)
    return 0


def measure(args, overrides, folder: Path) -> dict:
    """The trace of the steps, joined to the programs that XLA dumps while it compiles."""
    flags = f"--xla_dump_to={folder}/hlo --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    import jax  # reads the flags when its first device is made

    jax.config.update("jax_enable_compilation_cache", False)
    once, what = work(args, overrides)
    for _ in range(2):
        once()
    began = time.perf_counter()
    jax.profiler.start_trace(str(folder / "trace"))
    once_began = time.perf_counter()
    for _ in range(args.steps):
        once()
    seconds = (time.perf_counter() - once_began) / args.steps
    jax.profiler.stop_trace()
    say(f"traced in {time.perf_counter() - began:.1f} s")
    programs = trace.programs(folder / "hlo")
    rows = trace.join(trace.events(folder / "trace"), programs, args.steps)
    if not rows:
        raise ValueError("the trace holds no operation; does this device's profiler record them?")
    return {"what": what, "seconds": seconds, "device": tables.device(), "operations": rows}


def work(args, overrides):
    """(a function that does one step and waits for it, what it is)."""
    from scripts.bench import ours, rounds
    from scripts.bench.train import RECIPE

    if args.config:
        return configured(args.config, overrides)
    change = sizes.variant(args.variant)
    o = sizes.options(args.family, args.size, **change)
    named = " ".join(part for part in (args.family, args.size, args.variant) if part)
    if args.what == "decode":
        decode = ours.Decode({"model": o.plain()})
        call = dict(rows=args.rows, beams=args.beams, prompt=args.prompt, new=args.new)
        what = f"{named}: {args.rows} rows, {args.beams} beams, {args.prompt} + {args.new} tokens"
        return (lambda: decode.generate(**call)), what
    if args.what == "rollout":
        job = dict(rows=args.rows, prompt=args.prompt, new=args.new, temperature=1.0)
        side = rounds.Ours({"model": o.plain(), **job})
        what = f"{named}: a round of {args.rows} answers, {args.prompt} + {args.new} tokens"
        return (lambda: side.round(1)), what
    job = {"model": o.plain(), "batch": args.batch, "length": args.length, "clip": 1.0, **RECIPE}
    train = ours.Train(job)
    return (lambda: train.steps(1)), f"{named}: a training step of {args.batch} x {args.length}"


def configured(path: str, overrides):
    """The same for a config's own loop and first batch."""
    import jax

    from scripts.bench.sides import load
    from train.core import launch, shard
    from train.core.state import make_step

    config = load(path, overrides)
    plan, rows = launch.loop(config.loop).check(config)
    jax.set_mesh(plan.mesh)
    step = make_step(
        plan.task, plan.tx, seed=config.seed, micro=config.micro, ema=config.optim.ema,
        schedule=plan.schedule, shardings=plan.shardings, guard=plan.guard,
    )  # fmt: skip
    held = [jax.jit(plan.fresh, out_shardings=plan.shardings)()]
    batch = shard.place(rows, plan.mesh)

    def once():
        held[0], metrics = step(held[0], plan.task.frozen, batch)
        jax.block_until_ready((held[0], metrics))

    return once, f"{path}: a training step of {config.batch} x {config.length}"


def show(result: dict, top: int) -> str:
    """The tables of a result."""
    rows = result["operations"]
    total = sum(row["ms"] for row in rows)

    def grouped(name, head):
        groups = {}
        for row in rows:
            held = groups.setdefault(row[name], [0, 0.0])
            held[0], held[1] = held[0] + row["count"], held[1] + row["ms"]
        order = sorted(groups.items(), key=lambda item: -item[1][1])
        lines = [
            [key, f"{n:g}", f"{ms:.2f}", f"{100 * ms / total:.1f} %"] for key, (n, ms) in order
        ]
        return tables.grid([head, "count", "ms", "share"], lines[: max(top, 12)])

    longest = [
        [row["name"], row["kind"], row["place"], row["shape"], f"{row['count']:g}",
         f"{row['ms']:.2f}", f"{100 * row['ms'] / total:.1f} %"]
        for row in rows[:top]
    ]  # fmt: skip
    head = ["operation", "kind", "place", "shape", "count", "ms", "share"]
    first = (
        f"{result['what']}: {result['seconds'] * 1e3:.1f} ms on the wall (traced), "
        f"{total:.1f} ms in {sum(row['count'] for row in rows):g} operations."
    )
    parts = [first, grouped("kind", "kind"), grouped("place", "place")]
    return "\n\n".join([*parts, tables.grid(head, longest)])


if __name__ == "__main__":
    pages.restart()
    sys.exit(main())
