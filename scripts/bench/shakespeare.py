"""`bench shakespeare`: bits per character on held-out works after the same wall minutes as torch.

    python -m scripts.bench shakespeare --against torch --settings stock best --minutes 3 \\
        --seeds 0 1 2 --lrs 5e-4 1e-3 2e-3 --torch_python PATH

Both sides train the architecture of `configs/shakespeare.py` on the same batches in the same order
and are scored on the same whole works. Each side first runs some calibration steps; the number of
steps that fit into the minutes follows from them, compilation included, and the learning rate's
schedule spans exactly these steps. (A schedule by the clock would tie the result to every hiccup of
the machine; the seconds really used are in the table, and more than 5 % off is said beside it.)
Every learning rate is tried on the first seed; the best one of each side then gets the other seeds.
Runs of the sides alternate, so that a slow spell of the machine meets all of them. Finished runs
are kept in runs.jsonl and are not done again.

The settings of torch: `stock` is float32 as pip installs it; `shim` preloads the two-line library
that lets MKL use all of an AMD processor; `bf16` adds autocast to that, `compiled` torch.compile;
`best` is the one of shim and bf16 that calibrates faster.
"""

from pathlib import Path

from scripts.bench import contest, material, report
from scripts.bench.contest import Lane, finished

SETTINGS = ("stock", "shim", "bf16", "compiled", "best")
HELP = "bits per character on held-out Shakespeare, against torch in the same minutes"


def arguments(parser):
    """Adds what this benchmark takes."""
    contest.arguments(
        parser, "configs/shakespeare.py", SETTINGS, ["stock", "best"], minutes=3.0, points=5,
        calibrate=40, out="runs/bench/shakespeare",
    )  # fmt: skip
    parser.add_argument("--against", nargs="+", choices=("torch",), default=["torch"])
    parser.add_argument("--lrs", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])


def run(args) -> int:
    """Runs what is missing and writes runs.jsonl, report.md and curves.png into `--out`."""
    from scripts.bench.sides import Ours, Shared, Torch

    out = Path(args.out)
    shared = Shared(args.config, [f"--config.{text}" for text in args.set], out, args.points)
    lanes = [Lane(Ours(shared), args)]
    for setting in dict.fromkeys(args.settings):
        names = ("shim", "bf16") if setting == "best" else (setting,)
        tried = [Lane(Torch(shared, name, args.torch_python), args) for name in names]
        lanes.append(min(tried, key=lambda lane: lane.step))
        if setting == "best":
            lanes[-1].name = f"torch best ({lanes[-1].side.setting})"
    seed, *others = args.seeds
    for lr in args.lrs:
        for lane in lanes:
            lane.once(out, lr, seed)
    for other in others:
        for lane in lanes:
            lane.once(out, report.best_lr(finished(out, lanes), lane.name), other)
    title = f"{args.config}: {args.minutes:g} minutes of training"
    notes = describe(args, lanes, shared.config.optim)
    print(report.write(finished(out, lanes), out, args.minutes, notes, title))
    print(f"written: {out}/report.md, curves.png, runs.jsonl")
    return 0


def describe(args, lanes, optim) -> list:
    """How it was done, for the report."""
    numbers = " ".join(f"{lr:g}" for lr in args.lrs)
    seeds = " ".join(str(seed) for seed in args.seeds)
    command = (
        f"python -m scripts.bench shakespeare --against torch --settings {' '.join(args.settings)} "
        f"--minutes {args.minutes:g} --seeds {seeds} --lrs {numbers}"
    )
    lines = [f"`{command}` on {contest.processor()}."]
    for lane in lanes:
        lines.append(
            f"{lane.name}: {lane.version}; {lane.step * 1e3:.0f} ms a step and {lane.first:.1f} s "
            "to start when calibrated."
        )
    return lines + [f"Not on the peer's side: {text}." for text in material.differences(optim)]
