"""`bench translate`: BLEU on pairs held out after the same minutes as torch's own nn.Transformer.

    python -m scripts.bench translate --config=configs/transformer.py:en-de --minutes 15 --seeds 0 1 2 \\
        --settings stock --torch_python PATH

Both sides train the architecture of the config on the same batches in the same order, with its recipe,
and write the test part greedily, which needs nothing that torch's module lacks. The steps that fit into
the minutes follow from a calibration, compilation included, as in `bench shakespeare`; the seconds really
used stand in the table. torch's module drops attention's weights as well, has a norm behind each stack,
and its encoder takes a quicker way over padding in evaluation. Finished runs are kept in runs.jsonl.
"""

import statistics
from pathlib import Path

from scripts.bench import contest, report
from scripts.bench.contest import Lane, finished

HELP = "BLEU of translations, against torch's nn.Transformer in the same minutes"
SETTINGS = ("stock", "bf16", "compiled")


def arguments(parser):
    """Adds what this benchmark takes."""
    contest.arguments(
        parser, "configs/transformer.py:en-de", SETTINGS, ["stock"], minutes=15.0, points=4,
        calibrate=20, out="runs/bench/translate",
    )  # fmt: skip


def run(args) -> int:
    """Runs what is missing and writes runs.jsonl, report.md and curves.png into `--out`."""
    from scripts.bench.translate_sides import Ours, Shared, Torch

    out = Path(args.out)
    shared = Shared(args.config, [f"--config.{text}" for text in args.set], out, args.points)
    args.lrs = [shared.config.optim.lr]
    tried = [Ours(shared), *(Torch(shared, name, args.torch_python) for name in args.settings)]
    lanes = [Lane(side, args) for side in tried]
    for seed in args.seeds:
        for lane in lanes:
            lane.once(out, args.lrs[0], seed)
    rows = finished(out, lanes)
    page = table(args, rows)
    (out / "report.md").write_text(page + "\n")
    bleu = lambda runs: f": BLEU {statistics.fmean(run['bleu'] for run in runs):.2f}"
    report.plot(rows, out / "curves.png", "", "nats a target token, held-out pairs", bleu)
    print(f"{page}\nwritten: {out}/report.md, curves.png, runs.jsonl")
    return 0


def table(args, rows: list) -> str:
    """Each side's mean, standard error and seeds, and the curves behind them, as markdown."""
    lines = [
        f"`python -m scripts.bench translate --config={args.config} --minutes {args.minutes:g} --seeds "
        f"{' '.join(map(str, args.seeds))} --settings {' '.join(args.settings)}` on {contest.processor()}.",
        "",
        "| | parameters | training, min | steps | target tokens | BLEU | each seed | chrF |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in report.sides(rows):
        found = sorted(report.of(rows, side), key=lambda row: row["seed"])
        mean = lambda name, found=found: statistics.fmean(row[name] for row in found)
        each = [row["bleu"] for row in found]
        error = f" ± {statistics.stdev(each) / len(each) ** 0.5:.2f}" if len(each) > 1 else ""
        lines.append(
            f"| {side} | {mean('parameters'):,.0f} | {mean('seconds') / 60:.2f} | {mean('steps'):.0f} | "
            f"{mean('tokens'):,.0f} | {mean('bleu'):.2f}{error} | "
            f"{' '.join(f'{value:.2f}' for value in each)} | {mean('chrf'):.2f} |"
        )
    lines += ["", "Held-out loss, nats a token, by minutes of training, the first seed:", ""]
    for side in report.sides(rows):
        first = min(report.of(rows, side), key=lambda row: row["seed"])
        curve = "; ".join(f"{seconds / 60:.1f} min {loss:.3f}" for seconds, loss in first["curve"])
        lines.append(f"- {side}: {curve}")
    return "\n".join(lines)
