"""Convolutional nets against transformers on Fashion-MNIST, fairly: one grid of runs, one report.

    python -m scripts.prepare fetch fashion-mnist
    python -m scripts.compare [--out runs/compare] [--seeds 0..2] [--only vit resnet] [--shares 0.01 1]
    python -m scripts.compare norms [--out runs/norms] [--only resnet]
    python -m scripts.compare report [norms] [--out runs/compare]

Every run is `python -m train` with a config of `configs/fashion.py` in a folder of its own; started
again, the command skips what is finished and resumes the rest, and `report` only draws (the second grid:
`report norms`). The report is report.html with its figures beside it (matplotlib: the extra `plots`), and
table.tsv.

The first grid trains seven nets of about 0.3 million parameters on 1 %, 10 % and 100 % of the labels (120,
300 and 1,410 steps of 128; the last are three epochs of all 60,000): ResNet, EfficientNet, ViT, DeiT (which
learns from the ResNet of its own seed and share), Swin, BEiT (pre-trained on all pictures without labels,
then fine-tuned), the textbook's attention-only net; beside them, on the smaller shares, DeiT without a
teacher and BEiT without pre-training. Sized for two hours on two cores; to get there pictures are cut
into 16 patches, batches are large, epochs few, and nothing is tuned by net but its rate.

`norms` trains the ResNet and the ViT with batch and with layer normalisation at batches of 2, 8, 32 and
256, 25,600 pictures each, the rate growing with the batch's square root.
"""

import subprocess
import sys
from pathlib import Path

from scripts import sweep
from scripts.compare import report
from train.core import arguments, config, errors, validate

SPEC = "configs/fashion.py"
NETS = ("resnet", "efficientnet", "vit", "deit", "swin", "beit", "textbook")
CONTROLS = ("deit-plain", "beit-scratch")  # on part of the labels only
STEPS = {0.01: 120, 0.1: 300, 1.0: 1_410}
NORMED = ("resnet", "vit")  # nets of the second grid
NORMS, BATCHES, SEEN = ("batch", "layer"), (2, 8, 32, 256), 25_600


def main(argv=None) -> int:
    """The command; returns 0 if every run is finished."""
    options = _arguments(sys.argv[1:] if argv is None else argv)
    of_norms = "norms" in (options.what, options.of)
    out = Path(options.out or f"runs/{'norms' if of_norms else 'compare'}")
    seeds = sweep.seeds(options.seeds)
    runs = (norms if of_norms else grid)(out, seeds, options)
    failed = []
    for number, run in enumerate(runs, 1):
        if options.what == "report":
            if not sweep.finished(run):
                failed.append(run)
            continue
        print(f"[{number}/{len(runs)}] {run.name}: ", end="", flush=True)
        if sweep.finished(run):
            print("finished before", flush=True)
            continue
        sweep.train(run, f"{SPEC}:{dict(run.point)['net']}", popen=subprocess.Popen)
        shown = {k: v for k, v in run.final.items() if k.endswith(("accuracy", "error"))}
        said = "  ".join(f"{k} {v:.4f}" for k, v in shown.items()) or "done"
        print(said if run.outcome == "ok" else run.outcome, flush=True)
        failed += [run] * (run.outcome != "ok")
    done = [run for run in runs if run.outcome == "ok"]
    if done:
        print(report.write(done, out))
    for run in failed:
        print(f"not finished: {run.name}: {run.outcome or 'no run'}; log: {run.folder / 'log.txt'}")
    return 1 if failed else 0


def _arguments(argv):
    parser = errors.Parser(prog="python -m scripts.compare", description=__doc__)
    parser.add_argument("what", nargs="?", default="grid", choices=["grid", "norms", "report"])
    parser.add_argument("of", nargs="?", choices=["grid", "norms"],
                        help="which grid `report` draws (default: the first)")  # fmt: skip
    parser.add_argument("--out", default="", help="folder of the runs and the report")
    parser.add_argument("--seeds", default="0..2", help="0..2 (both ends) or 0,3,7")
    parser.add_argument("--only", nargs="+", default=[], help="nets; default: all")
    parser.add_argument("--shares", nargs="+", type=float, default=[], help="of 0.01 0.1 1")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                        help="overrides config.FIELD in every run")  # fmt: skip
    options = parser.parse_args(argv)
    if options.of and options.what != "report":
        raise ValueError(f"{options.what} takes no {options.of!r} behind it; `report` does")
    of_norms = "norms" in (options.what, options.of)
    if of_norms and options.shares:
        raise ValueError("--shares is for the first grid; that of norms trains on all labels")
    known = NORMED if of_norms else (*NETS, *CONTROLS)
    for name in options.only:
        if name not in known:
            raise ValueError(f"no net {name!r}; {errors.nearest(name, known)}")
    for share in options.shares:
        if share not in STEPS:
            raise ValueError(f"no share {share:g}; expected {', '.join(f'{s:g}' for s in STEPS)}")
    return options


def grid(out, seeds, options) -> list:
    """The runs of the first grid in an order in which what is needed comes before."""
    runs, wanted = [], set(options.only or (*NETS, *CONTROLS))
    more = [f"--config.{text}" for text in options.set]
    shares = tuple(options.shares or STEPS)
    for seed in seeds:
        if "beit" in wanted:
            runs.append(cell(out, "tokenizer", 1.0, seed, more, steps=600))
            runs.append(cell(out, "beit-mim", 1.0, seed, more, tokenizer=runs[-1].folder))
        for share in shares:
            nets = [n for n in NETS if n in wanted or (n == "resnet" and "deit" in wanted)]
            nets += [n for n in CONTROLS if n in wanted and share < 1]
            for net in nets:
                extra = {"steps": STEPS[share]}
                if net == "deit":
                    extra["distill.teacher"] = place(out, "resnet", share, seed)
                if net == "beit":
                    extra["init.checkpoint"] = place(out, "beit-mim", 1.0, seed)
                every = {1.0: STEPS[share] // 6, 0.1: STEPS[share] // 2}.get(share, 0)
                runs.append(cell(out, net, share, seed, more, **extra, **{"eval.every": every}))
    return runs


def norms(out, seeds, options) -> list:
    """The runs of the second grid."""
    runs, more = [], [f"--config.{text}" for text in options.set]
    for seed in seeds:
        for net in [net for net in NORMED if net in (options.only or NORMED)]:
            for norm in NORMS:
                for batch in BATCHES:
                    steps = SEEN // batch
                    rate = {"resnet": 4e-3, "vit": 2e-3}[net] * (batch / 128) ** 0.5
                    extra = {
                        "model.norm": norm, "batch": batch, "steps": steps,
                        "optim.lr": f"{rate:.6f}", "optim.warmup": max(1, steps // 20),
                        "eval.train": "true", "log.every": max(1, steps // 50),
                    }  # fmt: skip
                    extra["model.norm_eps"] = {"batch": "1e-5", "layer": "1e-6"}[norm]
                    run = cell(out, net, 1.0, seed, more, name=f"{net},{norm},{batch}", **extra)
                    run.point = (*run.point, ("norm", norm), ("batch", str(batch)))
                    runs.append(run)
    return runs


def place(out, net: str, share: float, seed: int, name="") -> Path:
    """The folder of a run."""
    return Path(out) / "runs" / f"{name or f'{net},{share:g}'},seed={seed}"


def cell(out, net, share, seed, more, name="", **changes) -> sweep.Run:
    """One run; ValueError where its folder holds another."""
    folder = place(out, net, share, seed, name)
    given = {"data.labelled": share, "seed": seed, **changes}
    overrides = (*(f"--config.{field}={value}" for field, value in given.items()), *more)
    settings = config.load(f"{SPEC}:{net}")
    arguments.override(settings, list(overrides))
    settings = config.complete(settings).lock()
    validate.validate(settings)
    sweep.refuse_other(folder, settings)
    point = (("net", net), ("share", f"{share:g}"))
    return sweep.Run(point, seed, settings, overrides, folder)


if __name__ == "__main__":
    sys.exit(errors.cleanly(main)())
