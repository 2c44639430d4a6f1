"""`bench train`: one training step of ours and of torch's, in turns.

    python -m scripts.bench train --family gpt2 --size 12m --against transformers nanogpt \\
        --torch_python PATH                                     (quick: about a minute)
    python -m scripts.bench train --size 124m --rounds 5 --threads 2 --settings stock best compile
    python -m scripts.bench train --size 12m --against none --variants "" remat=full attend=explicit
    python -m scripts.bench train --size 124m --against none --dtype float32 bfloat16

Every side is a process that keeps its model and does `--steps` steps when it is its turn; the first
round warms up. Equal on all sides: the architecture (the reference's config.json is written from our
options), the batches (random tokens, [batch, length]), AdamW (0.9, 0.95, 1e-8, decay 0.1 on matrices
and tables), the clipping (`--clip 0`: none) and no dropout. Ours is the trainer's own step, with its
guard against bad batches.

`--threads 1` (default): every side works on one core, and CPU-seconds are compared; on two cores that
share a memory bus the same step takes more of them. `--threads 2`: two cores each, and wall is compared;
for a quiet machine.

Settings of the peers, all float32 unless they say otherwise: `stock` as installed; `compile`
torch.compile on top; `best` preloads the two lines that let MKL use all of an AMD processor and takes
the fused AdamW; `best-compile` both; `bf16` is `best` under bfloat16 autocast, `channels-last` `best`
with convolutions in that layout. Models of images are families like the others (`--family resnet --size
50`); they read random images, and rates are images a second. Encoders (`--family bert --size base`)
and encoder-decoders (`--family t5 --size small`) train as `scripts.bench.texts` says; an
encoder-decoder's `--length` is the source's, its target has half of it. `--dtype` is ours:
bfloat16 runs the matrix products' operands in it and keeps activations in float32.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

from scripts.bench import first as bench_first
from scripts.bench import lanes as bench_lanes
from scripts.bench import pictures, sizes, tables, texts
from scripts.bench.lanes import Lane, say

HELP = "a training step against transformers and a plain torch GPT: time, memory, compilation"
PEERS = ("transformers", "nanogpt", "none")
SETTINGS = ("stock", "compile", "best", "best-compile", "bf16", "channels-last")
RECIPE = dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, lr=3e-4)


def arguments(parser):
    """Adds what this benchmark takes."""
    parser.description = __doc__
    parser.add_argument("--family", default="gpt2")
    parser.add_argument("--size", default="124m", help="a published size, or 12m, or tiny")
    parser.add_argument("--against", nargs="+", choices=PEERS, default=["transformers"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["stock", "best"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    parser.add_argument(
        "--threads", type=int, choices=(1, 2), default=1, help="and cores, of a side"
    )
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument(
        "--variants", nargs="+", default=[""], help='ours: option=value,... or "" for none'
    )
    parser.add_argument("--clip", type=float, default=1.0, help="global norm on all sides; 0: off")
    parser.add_argument("--no_peak", action="store_true", help="leave the matmul peak out")
    parser.add_argument("--first", action="store_true", help="time from fit to the first step, too")
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--out", default="", help="keep the result as JSON")


def run(args) -> int:
    """Measures, prints the tables and, with `--out`, keeps the result."""
    return tables.finish(args, measure(args), tables.train)


def measure(args) -> dict:
    """The whole benchmark as a dict; `scripts.bench.tables.train` reads it."""
    kind = sizes.options(args.family, args.size).kind
    if kind in pictures.KINDS:
        args.length = 1
        if "nanogpt" in args.against:
            raise ValueError("nanogpt reads no images; --against transformers")
    if kind in texts.KINDS and "nanogpt" in args.against:
        raise ValueError(f"nanogpt is a decoder, {args.family} an {kind}; --against transformers")
    with tempfile.TemporaryDirectory() as folder:
        lanes = ours(args, Path(folder)) + peers(args, Path(folder))
        rates = {} if args.no_peak else peaks(args, Path(folder))
        with contextlib.ExitStack() as stack:
            for lane in lanes:
                stack.enter_context(lane)
            say(f"{len(lanes)} sides are ready")
            bench_lanes.interleave(lanes, args.rounds, "steps", steps=args.steps)
        first = bench_first.measure(lanes[0].job, Path(folder)) if args.first else {}
    names = ("family", "size", "batch", "length", "rounds", "steps", "threads", "clip")
    return {
        "bench": "train",
        "command": tables.command("train", args),
        "device": tables.device(),
        **{name: getattr(args, name) for name in names},
        "cores": args.threads,
        "flops": lanes[0].info["flops"],
        "peaks": rates,
        "first": first,
        "sides": [side(lane) for lane in lanes],
    }


def side(lane) -> dict:
    """What one lane gave."""
    kept = {name: [row[name] for row in lane.rows] for name in ("cpu", "wall", "loss")}
    job = {name: lane.job.get(name) for name in ("side", "setting", "dtype")}
    return {"name": lane.name, **job, "info": lane.info, "peak": lane.rows[-1]["peak"], **kept}


def jobs(args) -> dict:
    """What all workers are told."""
    return {
        "kind": "train", "batch": args.batch, "length": args.length, "threads": args.threads,
        "clip": args.clip, **RECIPE,
    }  # fmt: skip


def ours(args, folder) -> list:
    """A lane for every dtype and variant of ours."""
    lanes = []
    for dtype in args.dtype:
        for text in args.variants:
            change = sizes.variant(text)
            if dtype == "bfloat16":
                change = {"dtype": dtype, "stream": "float32", **change}
            o = sizes.options(args.family, args.size, **change)
            if o.positions == "learned" and args.length > o.context:
                raise ValueError(f"--length {args.length} is beyond the context of {o.context}")
            name = " ".join(["formulary", *(["bf16"] if dtype == "bfloat16" else []), text]).strip()
            job = {**jobs(args), "model": o.plain(), "side": "formulary", "dtype": dtype}
            off = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # compilation is timed
            lanes.append(
                Lane(name, sys.executable, "scripts.bench.ours", job, folder, off, args.threads)
            )
    return lanes


def peers(args, folder) -> list:
    """A lane for every peer and setting."""
    from models.interop import describe

    names = [name for name in dict.fromkeys(args.against) if name != "none"]
    if not names:
        return []
    need = ("torch", "transformers") if "transformers" in names else ("torch",)
    bench_lanes.find_torch(args.torch_python, need)
    o, lanes = sizes.options(args.family, args.size), []
    for peer in names:
        for setting in dict.fromkeys(args.settings):
            best = setting not in ("stock", "compile")
            environment = bench_lanes.threads(args.threads)
            if best:
                environment |= bench_lanes.preload(folder)
            job = {
                **jobs(args), "model": o.plain(), "reference": describe.write(o), "peer": peer,
                "side": peer, "setting": setting, "compile": "compile" in setting, "fused": best,
                "autocast": setting == "bf16",
                "dtype": "bfloat16" if setting == "bf16" else "float32",
            }  # fmt: skip
            name = f"{peer} {setting}"
            module = "scripts.bench.peer"
            lane = Lane(name, args.torch_python, module, job, folder, environment, args.threads)
            lanes.append(lane)
    return lanes


def peaks(args, folder, rounds: int = 3) -> dict:
    """{"float32": {"1": FLOP/s, "2": ...}, "bfloat16": ...} of one core and of two.

    The best that XLA's product or, where there is a peer, torch's with its best settings reaches.
    """
    lanes = []
    for cores in (1, 2):
        job = {"kind": "matmul", "threads": cores}
        name = f"matmul {cores} jax"
        lanes.append(Lane(name, sys.executable, "scripts.bench.ours", job, folder, (), cores))
        if set(args.against) != {"none"}:
            environment = bench_lanes.threads(cores) | bench_lanes.preload(folder)
            lanes.append(
                Lane(f"matmul {cores} torch", args.torch_python, "scripts.bench.peer", job, folder,
                     environment, cores)
            )  # fmt: skip
    best = {"float32": {}, "bfloat16": {}}
    for lane in lanes:
        with lane:
            cores = lane.name.split()[1]
            for dtype, found in best.items():
                rate = max(lane.ask("matmul", dtype=dtype)["rate"] for _ in range(rounds))
                say(f"{lane.name} {dtype}: {rate / 1e9:.0f} GFLOP/s")
                found[cores] = max(found.get(cores, 0.0), rate)
    return best
