"""The report of `scripts.compare`: what the runs say, as figures, a table and a page."""

import html
import statistics
from pathlib import Path

import jax

from models.build import count
from models.options import Options
from scripts import page
from scripts.compare import figures
from train import vision
from train.core import check, log


def write(runs, out) -> Path:
    """Writes report.html, its PNGs and table.tsv; returns the page's path."""
    out = Path(out)
    made = _norms(runs, out) if any("norm" in dict(run.point) for run in runs) else _grid(runs, out)
    title, lead, body, foot = made
    return page.write(out / "report.html", title, lead, body, foot)


def by(runs, *fields) -> dict:
    """Nested {field: {...: runs}} in the order of the runs."""
    if not fields:
        return runs
    found = {}
    for run in runs:
        found.setdefault(dict(run.point)[fields[0]], []).append(run)
    return {key: by(some, *fields[1:]) for key, some in found.items()}


def accuracy(run) -> float:
    """The last accuracy on the test pictures."""
    return run.final["valid/accuracy"]


def scores(runs) -> dict:
    """{net: {share: accuracies by seed}} of the runs that classify."""
    runs = [run for run in runs if "valid/accuracy" in run.final]
    found = by(runs, "net", "share")
    return {
        net: {float(share): [accuracy(run) for run in some] for share, some in shares.items()}
        for net, shares in found.items()
    }


def operations(run) -> float:
    """Floating point operations of one training image: thrice forward, and what a teacher does."""
    each = 3 * vision.operations(Options.of(run.settings.model.to_dict()))
    return each


def curves(runs) -> dict:
    """{net: [(operations, mean, sd)]} of the runs with all labels; a teacher's and pre-training's count."""
    every = by(runs, "net", "share")
    found, whole = {}, {net: shares.get("1", []) for net, shares in every.items()}
    before = {"beit": ("tokenizer", "beit-mim")}
    for net, some in whole.items():
        rows = [_evaluated(run) for run in some]
        if not rows or not rows[0]:
            continue
        spent = sum(_spent(whole[name][0]) for name in before.get(net, ()) if whole.get(name))
        each = operations(some[0]) * some[0].settings.batch
        if net == "deit" and whole.get("resnet"):
            each += operations(whole["resnet"][0]) / 3 * some[0].settings.batch
            spent += _spent(whole["resnet"][0])
        steps = sorted(set.intersection(*(set(row) for row in rows)))
        found[net] = [
            (spent + step * each, *figures.spread([row[step] for row in rows])) for step in steps
        ]
    return found


def _spent(run) -> float:
    return operations(run) * run.settings.batch * run.settings.steps


def _evaluated(run) -> dict:
    rows = log.read(run.folder)
    return {row["step"]: row["valid/accuracy"] for row in rows if "valid/accuracy" in row}


def speed(runs) -> float:
    """The median of the logged images per second."""
    rates = [
        row["images_per_second"]
        for run in runs
        for row in log.read(run.folder)
        if "images_per_second" in row
    ]
    return statistics.median(rates) if rates else float("nan")


def step_memory(run) -> float:
    """MiB that a compiled training step needs: its arguments and what it makes on the way."""
    config, o, parts = vision._open(run.settings)
    stream = vision.images.open_stream(config, parts["train"])
    teacher = vision.teacher(config, o)
    planned = vision.plan(config, vision.make_task(config, o, parts, stream, teacher))
    held = sum(size for name, size in planned.bytes().items() if name != "gradients")
    batch = stream.batch(0)
    read = sum(x.nbytes for x in batch.values())
    return (held + read + check.temporaries(config, planned, batch)) / 2**20


def costs(runs) -> dict:
    """{net: (parameters, MFLOP forward, images a second, MiB of a step)}."""
    found = {}
    for net, some in by(runs, "net").items():
        if net in figures.LOOKS and "-" not in net:
            o = Options.of(some[0].settings.model.to_dict())
            largest = [run for run in some if run.settings.data.labelled == 1.0] or some
            work = vision.operations(o) / 1e6
            found[net] = count(o), work, speed(largest), step_memory(largest[0])
    return found


def gains(found: dict) -> dict:
    """{title: {share: differences by seed}}."""
    pairs = {
        "BEiT: pre-training": ("beit", "beit-scratch"),
        "DeiT: the CNN's lessons": ("deit", "deit-plain"),
        "ViT: residuals, norms, MLPs": ("vit", "textbook"),
        "ResNet over ViT": ("resnet", "vit"),
    }
    made = {}
    for title, (a, b) in pairs.items():
        shares = [
            s for s in found.get(a, {}) if len(found.get(b, {}).get(s, ())) == len(found[a][s])
        ]
        if shares:
            made[title] = {
                s: [x - y for x, y in zip(found[a][s], found[b][s], strict=True)] for s in shares
            }
    return made


def _grid(runs, out):
    found, cost, curve = scores(runs), costs(runs), curves(runs)
    pictures = [figures.labels(found, out / "labels.png")]
    if curve:
        pictures.append(figures.compute(curve, out / "compute.png"))
    pictures.append(figures.costs(cost, out / "costs.png"))
    pairs = gains(found)
    if pairs:
        pictures.append(figures.gains(pairs, out / "gains.png"))
    rows = table(found, cost)
    _tsv(rows, out)
    heads = ("Labels", "Operations", "Costs", "Ingredients")
    names = ("labels.png", "compute.png", "costs.png", "gains.png")
    body = [
        f"<h2>{heads[names.index(p.name)]}</h2>{page.image(p, heads[names.index(p.name)])}"
        for p in pictures
    ]
    body.insert(1, page.table(rows, best=0))
    lines = "".join(f"<li>{line}</li>" for line in said(found, cost, pairs))
    body.append(f"<h2>What the numbers say</h2><ul>{lines}</ul>")
    lead = (
        "Seven nets of about 0.3 million parameters, one recipe, Fashion-MNIST: trained on 1, 10 and "
        "100 % of 60,000 labels, tested on all 10,000 test pictures."
    )
    foot = _foot(runs, "python -m scripts.compare")
    return "Convolution or attention?", lead, body, foot


def said(found, cost, pairs) -> list:
    """Sentences that hold the numbers of the textbook's comparison of CNNs and transformers."""
    mean = lambda net, share: figures.spread(found[net][share])[0]
    lines = []
    for share in sorted({s for shares in found.values() for s in shares}):
        nets = [n for n in found if share in found[n] and "-" not in n]
        best = max(nets, key=lambda n: mean(n, share))
        cnns = [n for n in nets if n in ("resnet", "efficientnet")]
        others = [n for n in nets if n not in cnns and n != "textbook"]
        if cnns and others:
            c, t = (max(group, key=lambda n: mean(n, share)) for group in (cnns, others))
            name = lambda n: f"{figures.LOOKS[n][0]} {mean(n, share):.1%}"
            lines.append(
                f"<b>With {share:.0%} of the labels</b> the best convolutional net is {name(c)}, the best "
                f"transformer {name(t)}; first is {figures.LOOKS[best][0]}."
            )
    for title, by_share in pairs.items():
        parts = []
        for share, values in sorted(by_share.items()):
            m, sd = figures.spread(values)
            parts.append(f"{100 * m:+.1f} ± {100 * sd:.1f} points at {share:.0%}")
        lines.append(f"<b>{html.escape(title)}</b>: {', '.join(parts)} (mean and sd over seeds).")
    if {"resnet", "vit"} <= cost.keys():
        a, b = cost["resnet"], cost["vit"]
        lines.append(
            f"<b>Speed</b>: ResNet trains at {a[2]:,.0f} images a second with {a[1]:.1f} million operations "
            f"an image, ViT at {b[2]:,.0f} with {b[1]:.1f}; a step takes {a[3]:.0f} and {b[3]:.0f} MiB."
        )
    return lines


def table(found, cost) -> list:
    """Rows of text, the header first."""
    shares = sorted({share for shares in found.values() for share in shares})
    rows = [
        ["net", "parameters", "MFLOP", "images/s", "MiB", *(f"{s:.0%} of labels" for s in shares)]
    ]
    order = sorted(found, key=lambda n: -figures.spread(found[n][max(found[n])])[0])
    for net in order:
        c = cost.get(net)
        start = (
            [f"{c[0]:,}", f"{c[1]:.1f}", f"{c[2]:,.0f}", f"{c[3]:.0f}"] if c else ["", "", "", ""]
        )
        cells = []
        for share in shares:
            values = found[net].get(share)
            m, sd = figures.spread(values) if values else (0, 0)
            cells.append(f"{100 * m:.1f} ± {100 * sd:.1f} ({len(values)})" if values else "-")
        rows.append([figures.LOOKS[net][0], *start, *cells])
    return rows


def _norms(runs, out):
    found = {}
    for net, by_norm in by(runs, "net", "norm", "batch").items():
        found[net] = {
            norm: {
                int(b): ([accuracy(r) for r in some], [r.final["train/accuracy"] for r in some])
                for b, some in batches.items()
            }
            for norm, batches in by_norm.items()
        }
    picture = figures.norms(found, out / "norms.png")
    rows = [["net", "norm", "batch", "test", "training pictures", "gap"]]
    for net, by_norm in found.items():
        for norm, batches in by_norm.items():
            for batch, (test, train) in sorted(batches.items()):
                gap = [a - b for a, b in zip(train, test, strict=True)]
                cells = [
                    f"{100 * m:.1f}" + (f" ± {100 * sd:.1f}" if len(test) > 1 else "")
                    for m, sd in map(figures.spread, (test, train, gap))
                ]
                rows.append([figures.LOOKS[net][0], norm, str(batch), *cells])
    _tsv(rows, out)
    lead = (
        "The same nets with the other normalisation, at batches of 2, 8, 32 and 256; 25,600 pictures "
        "each. Batch norm is evaluated with its running statistics, so the gap between pictures that were "
        "trained on and test pictures holds what these cost."
    )
    body = [page.image(picture, "norms"), page.table(rows, best=0)]
    return "Batch or layer norm?", lead, body, _foot(runs, "python -m scripts.compare norms")


def _tsv(rows, out):
    (Path(out) / "table.tsv").write_text("\n".join("\t".join(row) for row in rows) + "\n", "utf-8")


def _foot(runs, command) -> str:
    seeds = sorted({run.seed for run in runs})
    return (
        f"{len(runs)} runs, seeds {', '.join(map(str, seeds))}; mean ± sample standard deviation over "
        f"seeds (their number in brackets). Made by <code>{command}</code> with jax {jax.__version__} on "
        f"{jax.devices()[0].platform}. Operations are XLA's count; a training image takes three times a "
        "forward one. BEiT's curve begins where its pre-training ends, DeiT's where its teacher does."
    )
