"""`bench linen`: what the module system costs: our step against the same functions without modules.

    python -m scripts.bench linen --size 12m --rounds 9
    python -m scripts.bench linen --size 124m --rounds 5 --steps 1

Both sides are the trainer's step over the same parameters; one's loss goes through Flax's modules, the
other's through `scripts.bench.plain`. They take turns as in `bench train`. Beside the times stand the
compiled programs' operations and floating point operations, the seconds of tracing, which is where
modules can cost, and whether the losses are equal.
"""

import sys
import tempfile
from pathlib import Path

from scripts.bench import lanes, sizes, tables, train
from scripts.bench.lanes import Lane

HELP = "the overhead of Linen's modules over the same pure functions"


def arguments(parser):
    """Adds what this benchmark takes."""
    parser.description = __doc__
    parser.add_argument("--size", default="12m")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--variant", default="", help="option=value,... of both sides")
    parser.add_argument("--out", default="", help="keep the result as JSON")


def run(args) -> int:
    """Measures, prints the table and, with `--out`, keeps the result."""
    return tables.finish(args, measure(args), table)


def measure(args) -> dict:
    """The whole benchmark as a dict; `table` reads it."""
    o = sizes.options("gpt2", args.size, **sizes.variant(args.variant))
    job = {
        "kind": "train", "batch": args.batch, "length": args.length, "clip": 1.0, "threads": 1,
        **train.RECIPE, "model": o.plain(), "side": "formulary", "dtype": o.dtype,
    }  # fmt: skip
    off = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    with tempfile.TemporaryDirectory() as folder:
        made = lambda name, plain: Lane(
            name, sys.executable, "scripts.bench.ours", {**job, "plain": plain}, Path(folder), off
        )
        with made("modules", False) as modules, made("plain functions", True) as plain:
            lanes.interleave([modules, plain], args.rounds, "steps", steps=args.steps)
    names = ("size", "batch", "length", "rounds", "steps")
    return {
        "bench": "linen",
        "command": tables.command("linen", args),
        "device": tables.device(),
        **{name: getattr(args, name) for name in names},
        "sides": [train.side(lane) for lane in (modules, plain)],
    }


def table(result: dict) -> str:
    """Both sides and the overhead of the first over the second."""
    rows = []
    for s in result["sides"]:
        info = s["info"]
        rows.append([
            s["name"], tables.seconds_text(s["cpu"]), tables.seconds_text(s["wall"]),
            f"{info['trace_seconds']:.2f}", f"{info['compile_seconds']:.2f}",
            f"{info['operations']:,}", f"{info['counted_flops'] / 1e9:.3f}",
            f"{info['temporaries'] / 1e6:.1f}", f"{s['loss'][-1]:.6f}",
        ])  # fmt: skip
    head = [
        f"gpt2 {result['size']}, {result['batch']} x {result['length']}", "CPU-s a step",
        "wall s a step", "trace s", "compile s", "operations", "GFLOP (XLA's count)",
        "temporaries MB", "last loss",
    ]  # fmt: skip
    modules, plain = (tables.as_rows(s, "cpu") for s in result["sides"])
    r = tables.ratios(plain, modules, "cpu")
    line = (
        f"Overhead of the modules: {100 * (r['ratio'] - 1):+.1f} % of the CPU-seconds "
        f"(rounds: {100 * (r['low'] - 1):+.1f} to {100 * (r['high'] - 1):+.1f} %)."
    )
    return tables.grid(head, rows) + "\n\n" + line
