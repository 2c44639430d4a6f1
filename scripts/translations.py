"""A report on runs of one config that writes texts: scores, examples and cross-attention, one HTML file.

    python -m scripts.translations --from runs/kjv-0 --from runs/kjv-1 --from runs/kjv-2 --out runs/kjv.html

Translations, summaries, text to text alike: what `python -m train` left in written.jsonl is scored
against the references, beside what copying the source and its first sentence would score. `--examples`
rows (default 20), evenly over the test part, are shown with what the first run wrote for them, and for
the shortest few of them where its decoder looked. The figures are printed as well.
"""

import html
import json
import statistics
import sys
import tempfile
from pathlib import Path

from eval import translate
from scripts import attention, baseline, page
from train import seq2seq
from train.core import average, provenance
from train.core.errors import Parser, cleanly

SHOWN = ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact")
LONGEST = 24  # words of a sentence whose map is still read
MAPS = (
    "<h2>Where the decoder looks</h2><p>The last layer's cross-attention, a panel a head: each row is a "
    "token that the decoder reads, each column one of the source.</p>"
)


def written(run) -> list:
    """The rows of a run's written.jsonl, without the prefix; FileNotFoundError says what makes one."""
    path = Path(run) / seq2seq.WRITTEN
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} has no {seq2seq.WRITTEN}: it is written when a run whose config names "
            "config.data.test ends"
        )
    prefix = provenance.read(run)["config"].data.get("prefix", "")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{**row, "source": row["source"].removeprefix(prefix)} for row in rows]


def table(runs: dict) -> list:
    """Rows of figures: copying, the first sentence, each run, and their mean ± standard deviation."""
    first = next(iter(runs.values()))
    sources, wanted = ([row[name] for row in first] for name in ("source", "reference"))
    found = baseline.restated(sources, wanted)
    lines = [[name, *(f"{scores[key]:.2f}" for key in SHOWN)] for name, scores in found.items()]
    each = []
    for name, rows in runs.items():
        if [row["reference"] for row in rows] != wanted:
            raise ValueError(f"{name} was tested on other references than {next(iter(runs))}")
        each.append(translate.scores([row["written"] for row in rows], wanted))
        lines.append([name, *(f"{each[-1][key]:.2f}" for key in SHOWN)])
    if len(each) > 1:
        cells = []
        for key in SHOWN:
            values = [scores[key] for scores in each]
            cells.append(f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}")
        lines.append([f"mean of {len(each)} runs", *cells])
    return [["", *(name if name != "exact" else "exact, %" for name in SHOWN)], *lines]


def spread(rows, count: int) -> list:
    """`count` of the rows, or all, at equal distances."""
    count = min(count, len(rows))
    return [rows[(2 * n + 1) * len(rows) // (2 * count)] for n in range(count)]


def maps(run, rows, folder, prefix: str, count: int = 3) -> list:
    """Pictures of the last layer's cross-attention, every head, for the shortest rows; `run` is the
    folder of what wrote them."""
    o, variables, tokenizer = attention.open_source(str(run))
    size = lambda row: len(row["source"].split()) + len(row["written"].split())
    short = [row for row in sorted(rows, key=size) if size(row) <= 2 * LONGEST and row["written"]]
    made = []
    for number, row in enumerate(short[:count]):
        source = prefix + row["source"]
        drawn = attention.text(o, variables, tokenizer, source, row["written"], "cross")
        path = Path(folder) / f"cross-{number}.png"
        attention.draw_text(*drawn, path, layers=[-1], heads=True)
        made.append(path)
    return made


def write(names, out, examples: int) -> list:
    """Writes the page; returns the table's rows."""
    runs = {str(name): written(name) for name in names}
    first, rows = next(iter(runs.items()))
    if not rows:
        raise ValueError(f"{first} wrote nothing: config.decode.limit is -1?")
    figures, chosen = table(runs), spread(rows, examples)
    record = provenance.read(first)
    body = ["<h2>Scores</h2>", page.table(figures), f"<h2>{len(chosen)} examples</h2>"]
    body.append(page.table([list(chosen[0]), *(list(row.values()) for row in chosen)], text=True))
    with tempfile.TemporaryDirectory() as folder:
        model = average.written(first, record["config"])
        pictures = maps(model, chosen, folder, record["config"].data.get("prefix", ""))
        body += [MAPS, *(page.image(path, "cross-attention") for path in pictures)]
    lead = (
        f"{len(rows):,} test pairs. “The source” is copied as it is; “its first sentence” is cut off "
        "behind the first full stop. No test pair was trained on."
    )
    config, named = record["config"], ", ".join(html.escape(name) for name in runs)
    foot = (
        f"Runs: {named}; {config.steps:,} steps each, trained on {html.escape(config.data.train)}, with jax "
        f"{record['versions']['jax']} on {record['device']['kind']}. Examples and maps are the first run's."
    )
    page.write(out, "What was written", lead, body, foot, width=1180)
    return figures


def main(argv=None) -> int:
    parser = Parser(prog="python -m scripts.translations", description=__doc__)
    parser.add_argument("--from", dest="runs", action="append", required=True, help="a run")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--out", default="translations.html", help="the page")
    args = parser.parse_args(argv)
    if args.examples < 1:
        raise ValueError(f"--examples is {args.examples}; expected at least 1")
    for row in write(args.runs, args.out, args.examples):
        print("  ".join(f"{cell:>14}" if n else f"{cell:24}" for n, cell in enumerate(row)))
    print(f"{args.out}: scores, examples, cross-attention")
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
