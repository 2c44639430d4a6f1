"""`bench all`: runs every benchmark of the page and writes BENCHMARKS.md.

    python -m scripts.bench all --torch_python PATH                  everything, about two hours
    python -m scripts.bench all --only train-12m decode --torch_python PATH
    python -m scripts.bench all --missing --torch_python PATH        what has no result yet
    python -m scripts.bench all --page                               the page alone, from the results
    python -m scripts.bench all --list

Each part is one command of the other benchmarks and takes less than ten minutes; its result is kept as
scripts/figures/bench/PART.json, and the page is made of all that are kept. What stands outside of the
page's two markers is written by hand and stays. A loop that brings a family adds a row to PARTS.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from scripts.bench import decode, lengths, linen, page, rollout, scaling, tables
from scripts.bench import train as bench_train
from scripts.bench.lanes import say
from train.core.errors import nearest

HELP = "every benchmark of BENCHMARKS.md, in parts that can be resumed, and the page"
MODULES = {"train": bench_train, "decode": decode, "rollout": rollout,
           "scaling": scaling, "lengths": lengths, "linen": linen}  # fmt: skip
BOTH = "--against transformers nanogpt"
PARTS = {
    "train-12m": f"train --size 12m {BOTH} --rounds 5 --steps 4",
    "train-12m-wall": f"train --size 12m {BOTH} --rounds 7 --steps 2 --threads 2 --first",
    "train-12m-compile": f"train --size 12m {BOTH} --settings compile best-compile --rounds 5 --steps 2",
    "train-124m": f"train --size 124m {BOTH} --rounds 3",
    "train-124m-wall": f"train --size 124m {BOTH} --rounds 4 --threads 2 --first",
    "train-124m-compile": "train --size 124m --settings compile best-compile --rounds 2",
    "train-llama-12m": "train --family llama --size 12m --rounds 5 --steps 2",
    "train-llama-135m": "train --family llama --size smollm2-135m --rounds 2",
    "bf16-12m": "train --size 12m --against none --dtype float32 bfloat16 --rounds 5 --steps 4",
    "bf16-124m": "train --size 124m --against none --dtype float32 bfloat16 --rounds 3",
    "decode": "decode --size 124m --rounds 3",
    "decode-wall": "decode --size 124m --rounds 5 --threads 2",
    "rollout": "rollout --size 124m --rounds 5",
    "rollout-wall": "rollout --size 124m --rounds 7 --threads 2",
    "rollout-12m": "rollout --size 12m --rows 16 --prompt 64 --new 64 --rounds 5",
    "linen": "linen --size 12m --rounds 11",
    "scaling": "scaling",
    "train-bert-base": "train --family bert --size base --length 128 --rounds 3",
    "train-t5-small": "train --family t5 --size small --length 128 --rounds 3",
    "train-bart-base": "train --family bart --size base --length 128 --rounds 3",
    "train-vit-s16": "train --family vit --size s16 --rounds 3",
    "train-swin-t": "train --family swin --size t --rounds 3",
    "train-resnet-50": "train --family resnet --size 50 --rounds 3",
    "train-efficientnet-b0": "train --family efficientnet --size b0 --rounds 3",
    "train-longformer": "train --family longformer --size base --batch 1 --length 4096 --rounds 2",
    "decode-bart": "decode --family bart --size base --modes greedy1 beam4 --rounds 3",
    "lengths": "lengths",
}  # fmt: skip


def arguments(parser):
    """Adds what this command takes."""
    parser.description = __doc__
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="these parts")
    parser.add_argument("--missing", action="store_true", help="parts without a result")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page")
    parser.add_argument("--list", action="store_true", help="print the parts and their commands")
    parser.add_argument("--folder", default="scripts/figures/bench", help="where results are kept")
    parser.add_argument("--file", default="BENCHMARKS.md", help="the page")
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter with torch")


def run(args) -> int:
    """Runs the parts, keeps each result, writes the page."""
    if args.list:
        for name, words in PARTS.items():
            print(f"{name:20} {words}")
        return 0
    unknown = [name for name in args.only if name not in PARTS]
    if unknown:
        raise ValueError(f"no part {unknown[0]!r}; {nearest(unknown[0], PARTS)}")
    folder = Path(args.folder)
    wanted = [] if args.page else args.only or list(PARTS)
    if args.missing:
        wanted = [name for name in wanted if not (folder / f"{name}.json").exists()]
    for number, name in enumerate(wanted, 1):
        say(f"part {number} of {len(wanted)}: {name}")
        result = part(name, args.torch_python)
        tables.keep(result, folder / f"{name}.json")
        page.write(args.file, results(folder))
    page.write(args.file, results(folder))
    say(f"written: {args.file}")
    return 0


def part(name: str, python: str) -> dict:
    """The result of one part, with the tables that its command prints."""
    command, *words = shlex.split(PARTS[name])
    module = MODULES[command]
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    if command in ("train", "decode", "rollout"):
        words += ["--torch_python", python]
    args = parser.parse_args(words)
    result = module.measure(args)
    if hasattr(module, "draw"):
        module.draw(result, args.figure)
        result["figure"] = args.figure
    said = f"python -m scripts.bench {PARTS[name]}"
    return {**result, "command": said}


def results(folder: Path) -> dict:
    """{part: result} of what is kept, in the order of PARTS. ValueError names a damaged file."""
    found = {}
    for name in PARTS:
        path = folder / f"{name}.json"
        if path.exists():
            try:
                found[name] = json.loads(path.read_text())
            except ValueError:
                raise ValueError(f"{path} is no JSON; remove it and run the part again") from None
    return found
