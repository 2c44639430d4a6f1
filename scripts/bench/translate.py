"""`bench translate`: BLEU on pairs held out after the same minutes as torch's own nn.Transformer.

    python -m scripts.bench translate --config=configs/transformer.py:en-de --minutes 15 --seeds 0 1 2 \\
        --settings stock --torch_python PATH

Both sides train the architecture of the config on the same batches in the same order, with its recipe,
and write the test part greedily, which needs nothing that torch's module lacks. The steps that fit into
the minutes follow from a calibration, compilation included, as in `bench shakespeare`; the seconds really
used stand in the table. torch's module drops attention's weights as well, has a norm behind each stack,
and its encoder takes a quicker way over padding in evaluation. Finished runs are kept in runs.jsonl.
"""

import json
import statistics
import sys
from pathlib import Path

import numpy as np

from eval import translate
from models.options import Options
from scripts.bench import material, report, sides
from scripts.bench.shakespeare import Lane, finished, processor
from train import seq2seq
from train.core import optim

HELP = "BLEU of translations, against torch's nn.Transformer in the same minutes"
SCORE, SETTINGS = "bleu", ("stock", "bf16", "compiled")


def arguments(parser):
    """Adds what this benchmark takes."""
    parser.add_argument("--config", default="configs/transformer.py:en-de")
    parser.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=["stock"], help="of torch"
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, wall, each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--points", type=int, default=4, help="evaluations in each curve")
    parser.add_argument("--calibrate", type=int, default=20, help="steps of calibration")
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--out", default="runs/bench/translate")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the config, for both sides"
    )


def run(args) -> int:
    """Runs what is missing and writes runs.jsonl and report.md into `--out`."""
    out = Path(args.out)
    shared = Shared(args.config, [f"--config.{text}" for text in args.set], out, args.points)
    args.lrs = [shared.config.optim.lr]
    tried = [Ours(shared), *(Torch(shared, name, args.torch_python) for name in args.settings)]
    lanes = [Lane(side, args) for side in tried]
    for seed in args.seeds:
        for lane in lanes:
            lane.once(out, args.lrs[0], seed)
    page = table(args, finished(out, lanes))
    (out / "report.md").write_text(page + "\n")
    print(f"{page}\nwritten: {out}/report.md, runs.jsonl")
    return 0


def table(args, rows: list) -> str:
    """Each side's mean, standard error and seeds, and the curves behind them, as markdown."""
    lines = [
        f"`python -m scripts.bench translate --config={args.config} --minutes {args.minutes:g} --seeds "
        f"{' '.join(map(str, args.seeds))} --settings {' '.join(args.settings)}` on {processor()}.",
        "",
        "| | parameters | training, min | steps | target tokens | BLEU | each seed | chrF |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in report.sides(rows):
        found = sorted(report.of(rows, side), key=lambda row: row["seed"])
        mean = lambda name, found=found: statistics.fmean(row[name] for row in found)
        each = [row[SCORE] for row in found]
        error = f" ± {statistics.stdev(each) / len(each) ** 0.5:.2f}" if len(each) > 1 else ""
        lines.append(
            f"| {side} | {mean('parameters'):,.0f} | {mean('seconds') / 60:.2f} | {mean('steps'):.0f} | "
            f"{mean('tokens'):,.0f} | {mean(SCORE):.2f}{error} | "
            f"{' '.join(f'{value:.2f}' for value in each)} | {mean('chrf'):.2f} |"
        )
    lines += ["", "Held-out loss, nats a token, by minutes of training, the first seed:", ""]
    for side in report.sides(rows):
        first = min(report.of(rows, side), key=lambda row: row["seed"])
        curve = "; ".join(f"{seconds / 60:.1f} min {loss:.3f}" for seconds, loss in first["curve"])
        lines.append(f"- {side}: {curve}")
    return "\n".join(lines)


class Shared(sides.Shared):
    """What both sides have in common: the config, the pairs and the tokenizer that is trained on them."""

    def __init__(self, path: str, overrides, out: Path, points: int):
        self.path, self.overrides, self.out, self.points = path, list(overrides), out, points
        self.config = sides.load(path, self.overrides)
        out.mkdir(parents=True, exist_ok=True)
        self.options = Options.of(self.config.model.to_dict())
        _, self.tokenizer, _, held = seq2seq.open_parts(self.config)
        if "test" not in held or "references" not in held["test"]:
            raise ValueError(f"{path} has no test part of pairs (config.data.test)")
        self.test = held["test"]
        for part in ("heldout", "test"):
            write(out / f"{part}.npz", held[part]["batches"])

    def stream(self, config, seed: int, steps: int) -> Path:
        """The file with the first `steps` batches of a seed."""
        path = self.out / f"stream-{seed}-{steps}.npz"
        if not path.exists():
            stream = seq2seq.open_parts(config)[2]
            write(path, (stream.batch(step) for step in range(steps)))
        return path


def write(path: Path, batches):
    """Batches of pairs, each of a shape of its own, as one compressed file."""
    arrays = {}
    for number, batch in enumerate(batches):
        for name, values in batch.items():
            small = np.uint8 if name in ("mask", "weights", "rows") else np.int32
            arrays[f"{number}/{name}"] = np.asarray(values).astype(small)
    np.savez_compressed(path, **arrays)


class Ours(sides.Ours):
    """`python -m train`, which scores the test part when it ends."""

    score = SCORE

    def command(self, workdir, lr, seed, steps, calibrate):
        found = super().command(workdir, lr, seed, steps, calibrate)
        limit = -1 if calibrate else 0
        more = ["--config.decode.beams=1", f"--config.decode.limit={limit}", "--config.average=1"]
        return [*found, *more]

    def read(self, workdir) -> dict:
        path = workdir / seq2seq.RESULTS
        found = json.loads(path.read_text()) if path.exists() else {}
        scores = {name: found.get(f"test/{name}") for name in (SCORE, "chrf")}
        return {**sides.read_run(workdir, 0, "heldout/loss"), **scores}

    def run(self, lr: float, seed: int, steps: int, calibrate: bool = False) -> dict:
        row = super().run(lr, seed, steps, calibrate)
        stream = self.shared.stream(self.shared.config_of(lr, seed, steps), seed, steps)
        with np.load(stream) as held:
            row["tokens"] = sum(int(held[f"{n}/weights"].sum()) for n in range(row["steps"]))
        return row


class Torch(sides.Torch):
    """torch's nn.Transformer in one setting."""

    score = SCORE

    def run(self, lr: float, seed: int, steps: int, calibrate: bool = False) -> dict:
        shared = self.shared
        config = shared.config_of(lr, seed, steps)
        schedule = optim.schedule(config.optim, steps)
        name = f"{self.setting}-calibrate" if calibrate else f"{self.setting}-{lr:g}-{seed}-{steps}"
        job = material.job(
            shared.out / "jobs" / f"{name}.json", shared.options.plain(), config.optim,
            [float(schedule(step)) for step in range(steps)], seed=seed, smoothing=config.smoothing,
            data=str(shared.stream(config, seed, steps)), heldout=str(shared.out / "heldout.npz"),
            test=str(shared.out / "test.npz"), eos=shared.tokenizer.eos, extra=translate.EXTRA,
            points=[] if calibrate else shared.stops(steps), evaluate=not calibrate,
            autocast=self.setting in ("bf16", "compiled"), compile=self.setting == "compiled",
        )  # fmt: skip
        row = self.start("scripts.bench.translator", job)
        texts = [shared.tokenizer.decode(ids) for ids in row.pop("written")]
        if texts:
            found = translate.scores(texts, shared.test["references"])
            row.update({name: found[name] for name in (SCORE, "chrf")})
        return row
