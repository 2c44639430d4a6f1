"""All four stages of InstructGPT on a task for two cores, with controls: one command, one report.

    python -m scripts.instruct --out runs/instruct                  one arm, seed 0
    python -m scripts.instruct --out runs/instruct --cell plain:256:0
    python -m scripts.instruct --out runs/instruct --grid --seeds 0..4
    python -m scripts.instruct --out runs/instruct --cell sft:1024:0.05:page

Reviews on request (`scripts.instruct.task`): a small model is fine-tuned on reviews that follow their
requests about half the time ("sft") or not at all ("plain"), answers are sampled and ranked by a noisy
labeller, a reward model is trained on 1,024 or 256 rankings of four, and PPO follows it at a KL
coefficient of 0, 0.05 or 0.3. Gold is never shown to reward model or policy but in the control "gold";
the others are "shuffled" labels and a "random" reward, at 0.05. "page" has the labeller's judgements
keyed into the labelling page in a browser, and trains on what the page exports. Prompts that are judged
in the end are in no earlier stage. Each cell is kept as it ends, so that a grid goes on where it stopped.
The report (report.html, report.json, seeds.tsv) is of every cell in the folder, with gold and proxy, KL,
length, the win rate against the fine-tuned model and the same at equal length, with intervals, and best
of n.

Settings were tuned on seeds of 100 and up and are frozen in `configs/instruct_demo.py`; README.md has
what seeds 0 to 4 gave.
"""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np

from scripts.instruct import measure, page, report, stages, task
from train import ppo, reward, sft
from train.core.errors import Parser, cleanly

FOLLOW = {"sft": 0.5, "plain": 0.0}
SIZES = {"texts": 6000, **stages.WHOLE, "samples": 16}
QUICK = {"texts": 2000, "tuning": 200, "judging": 150, "rounds": 15, "samples": 8}
BETAS, LABELS, CONTROLS = (0.0, 0.05, 0.3), (1024, 256), ("shuffled", "random", "gold")
LABELLED = ("shuffled", "page")  # controls that are about the labels


def arguments(argv=None) -> argparse.Namespace:
    parser = Parser(prog="python -m scripts.instruct", description=__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path)
    add("--seeds", default="0", help="a seed, or FIRST..LAST")
    add("--grid", action="store_true", help="all arms, numbers of labels, betas and controls")
    add("--cell", default="", help="ARM:LABELS:BETA[:CONTROL] instead of sft:1024:0.05")
    add("--quick", action="store_true", help="a fifth of the work, to see that it runs")
    return parser.parse_args(argv)


def cells(a) -> list:
    """(arm, labels, beta, control, seed) of everything that was asked for."""
    first, _, last = a.seeds.partition("..")
    try:
        seeds = range(int(first), int(last or first) + 1)
    except ValueError:
        raise ValueError(f"--seeds {a.seeds}: expected a number, or FIRST..LAST") from None
    if not seeds or seeds[0] < 0:
        raise ValueError(f"--seeds {a.seeds}: expected seeds from 0, the last not below the first")
    if a.grid and a.cell:
        raise ValueError(f"--cell {a.cell} is one cell and --grid all of them; give one of the two")
    found = []
    for seed in seeds:
        if not a.grid:
            found.append((*_cell(a.cell or "sft:1024:0.05"), seed))
            continue
        found += [(*cell, "", seed) for cell in itertools.product(FOLLOW, LABELS, BETAS)]
        found += [("sft", LABELS[0], 0.05, control, seed) for control in CONTROLS]
    return found


def _cell(text: str) -> tuple:
    """(arm, labels, beta, control) of "plain:256:0:shuffled"."""
    parts = [*text.split(":"), ""]
    try:
        arm, labels, beta, control = parts[0], int(parts[1]), float(parts[2]), parts[3]
    except (ValueError, IndexError):
        raise ValueError(f"--cell {text}: expected ARM:LABELS:BETA[:CONTROL]") from None
    if (
        arm not in FOLLOW
        or control not in ("", "page", *CONTROLS)
        or labels < 8
        or not 0 <= beta < np.inf
    ):
        raise ValueError(
            f"--cell {text}: expected an arm of {', '.join(FOLLOW)}, at least 8 labels, beta of at "
            f"least 0 and perhaps a control of page, {', '.join(CONTROLS)}"
        )
    return arm, labels, beta, control


def same_sizes(out, sizes):
    """Notes how much work a folder's stages are; ValueError where they were made with another amount."""
    path, words = out / "sizes.json", json.dumps(sizes) + "\n"
    if not path.is_file() and not (out / "cells").is_dir():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(words)
    if path.is_file() and path.read_text() != words:
        raise ValueError(
            f"{out} holds stages of another size ({path.read_text().strip()}); give --quick as it was "
            "given there, or another --out"
        )


def split() -> dict:
    """Requests by what they are used for; those of "judged" appear nowhere else."""
    every = task.requests()
    order = np.random.default_rng(2022).permutation(len(every))
    return {"judged": [every[n] for n in order[:40]], "used": [every[n] for n in order[40:]]}


def write(path, rows):
    """Rows as JSONL, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    part.replace(path)


def done(folder) -> bool:
    return (folder / "done").is_file()


class Stopped(Exception):
    """A signal stopped a stage; what it had learned is saved."""


def finish(fitted, folder):
    """Marks a stage as done; Stopped where it was cut short, so that it goes on the next time."""
    if fitted.stopped:
        raise Stopped
    (folder / "done").touch()


def tuned(out, arm, seed, sizes) -> Path:
    """The fine-tuned model of an arm."""
    folder = out / f"{arm}-s{seed}"
    if not done(folder):
        rng = np.random.default_rng((seed, 1, len(arm)))
        used = split()["used"]
        rows = [used[n] for n in rng.integers(len(used), size=sizes["texts"])]
        data = out / f"{arm}-s{seed}.jsonl"
        write(data, [{"prompt": r, "completion": task.review(rng, r, FOLLOW[arm])} for r in rows])
        finish(sft.run(stages.tuned(data, seed, sizes["tuning"]), folder), folder)
    return folder


def labelling(arm, labels, control, seed) -> str:
    """The name of a cell's labels, and of what is trained on them."""
    return f"{arm}-{labels}{f'-{control}' * (control in LABELLED)}-s{seed}"


def ranked(out, base, arm, labels, seed, control) -> Path:
    """A file of a labeller's rankings of four answers of the fine-tuned model."""
    path = out / f"{labelling(arm, labels, control, seed)}.rankings.jsonl"
    if path.is_file():
        return path
    rng, used = np.random.default_rng((seed, 2, labels)), split()["used"]
    asked = [used[n] for n in rng.integers(len(used), size=3 * labels)]
    made = measure.answers(base, [r for r in asked for _ in range(4)], seed + 1000)
    rows, seen = [], set()
    for number, request in enumerate(asked):
        four = made[4 * number : 4 * number + 4]
        texts = [text for text, _ in four]
        pairs = {(request, *sorted(pair)) for pair in itertools.combinations(texts, 2)}
        if len(set(texts)) < 4 or pairs & seen or not all(text.strip() for text in texts):
            continue
        seen |= pairs
        ranks = task.ranks([task.gold(request, *answer) for answer in four], rng)
        ranks = rng.permutation(ranks).tolist() if control == "shuffled" else ranks
        rows.append({"prompt": request, "answers": texts, "ranks": ranks})
    rows = rows[:labels]
    if control == "page":
        rows = page.labelled(path.with_suffix(".labels"), rows)
    write(path, rows)
    return path


def judged(out, base, arm, labels, seed, control, sizes) -> Path:
    """The reward model's folder."""
    folder = out / f"reward-{labelling(arm, labels, control, seed)}"
    if not done(folder):
        data = ranked(out, base, arm, labels, seed, control)
        finish(reward.run(stages.reward(data, base, seed, sizes["judging"]), folder), folder)
    return folder


def plain(control: str, seed: int):
    """The control's reward function, or None for the reward model."""
    if control == "gold":
        return lambda prompt, answer, target: task.gold(prompt, answer, True)
    if control == "random":
        rng = np.random.default_rng((seed, 3))
        return lambda prompt, answer, target: float(rng.normal())
    return None


def cell(out, arm, labels, beta, control, seed, sizes) -> dict:
    """Everything of a cell, from its own file if it ended before."""
    name = f"{arm}-{labels}-{beta}{f'-{control}' if control else ''}-s{seed}"
    path = out / "cells" / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    base = tuned(out, arm, seed, sizes)
    judge = judged(out, base, arm, labels, seed, control, sizes)
    folder = out / f"ppo-{name}"
    own, requests = plain(control, seed), split()
    if not done(folder):
        data = out / "requests.jsonl"
        write(data, [{"prompt": request} for request in requests["used"]])
        given = None if own else judge / "best"
        how = stages.ppo(data, base, given, seed, sizes["rounds"], beta)
        finish(ppo.run(how, folder, own), folder)
    found = {"arm": arm, "labels": labels, "beta": beta, "control": control, "seed": seed}
    found |= measure.reward(judge)
    found |= measure.policy(folder, base, judge / "best", requests["judged"], sizes["samples"])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(part, path)
    return found


def ended(out) -> list:
    """Every cell of a folder that has ended, in the order of the grid."""
    rows = [json.loads(path.read_text()) for path in (out / "cells").glob("*.json")]
    arms = list(FOLLOW)
    order = lambda r: (arms.index(r["arm"]), -r["labels"], r["control"], r["beta"], r["seed"])
    return sorted(rows, key=order)


def main(argv=None) -> int:
    a = arguments(argv)
    task.compound("good")  # the judge is here, before anything is trained
    sizes = QUICK if a.quick else SIZES
    found = cells(a)
    same_sizes(a.out, sizes)
    for number, which in enumerate(found, 1):
        print(f"[{number}/{len(found)}] {which}", flush=True)
        try:
            cell(a.out, *which, sizes)
        except Stopped:
            print("stopped; the same command goes on from here", flush=True)
            return 0
        path = report.report(a.out, ended(a.out))
    print(f"report       {path}")
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
