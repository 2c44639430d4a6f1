"""`bench rollout`: a round of PPO's answers, ours and transformers' with TRL-style scoring, in turns.

    python -m scripts.bench rollout --size 124m --against transformers --torch_python PATH
    python -m scripts.bench rollout --size 12m --rows 16 --prompt 64 --new 64 --rounds 2   (quick)
    python -m scripts.bench rollout --size 124m --threads 2                              (wall)

A round: the policy writes `--new` tokens to each of `--rows` prompts (random tokens, between half of
`--prompt` and all of it, padded on the left), sampled at temperature 1 without a filter; policy and
frozen reference give the log-probabilities of the answers, a reward model a score, a value net its
values. Ours are the functions that `python -m train` calls in a round (`train.core.rollout`), which
in float32 notes the policy's log-probabilities while it writes; the peer's are `generate` and forward
passes over prompt and answer, a log-softmax and a gather, as TRL's PPO had them. All four models have
the size's shape; the peer reads the weights that ours exports, and both are asked about the same rows:
the table says by how much they differ at most. Nothing ends a row. The first round compiles and warms
up. `--threads` are every side's cores, as in `bench decode`.
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from scripts.bench import decode, lanes, rounds, tables
from scripts.bench.lanes import say

HELP = "a round of PPO's answers and their scoring against transformers' generate and TRL's way"
NAMES = ("family", "size", "rows", "prompt", "new", "rounds", "threads", "temperature")


def arguments(parser):
    """Adds what this benchmark takes."""
    parser.description = __doc__
    parser.add_argument("--rows", type=int, default=8, help="answers of a round")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the longest prompt")
    parser.add_argument("--new", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--temperature", type=float, default=1.0)
    decode.sides(parser)


def run(args) -> int:
    """Measures, prints the table and, with `--out`, keeps the result."""
    return tables.finish(args, measure(args), table)


def measure(args) -> dict:
    """The whole benchmark as a dict; `table` reads it."""
    more = {name: getattr(args, name) for name in ("rows", "prompt", "new", "temperature")}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        made = decode.lanes(args, Path(folder), "rollout", **more)
        started = [stack.enter_context(lane) for lane in made]
        said = [lane.ask("given") for lane in started]
        say(f"{args.rows} x ({args.prompt} + {args.new} tokens), four models")
        lanes.interleave(started, args.rounds, "round", number=0)
    return {
        "bench": "rollout",
        "command": tables.command("rollout", args),
        "device": tables.device(),
        **{name: getattr(args, name) for name in NAMES},
        "cores": args.threads,
        "sides": [side(lane, apart(said[0], own)) for lane, own in zip(started, said, strict=True)],
    }


def side(lane, differences: dict) -> dict:
    """What one lane gave: seconds of whole rounds, of their parts, memory, differences from ours."""
    seconds = lambda rows: {name: [row[name] for row in rows] for name in ("cpu", "wall")}
    parts = {name: seconds([row["parts"][name] for row in lane.rows]) for name in rounds.PARTS}
    return {
        "name": lane.name, "side": lane.job["side"], "info": lane.info, **seconds(lane.rows),
        "parts": parts, "peak": lane.rows[-1]["peak"], "differences": differences,
    }  # fmt: skip


def apart(mine: dict, theirs: dict) -> dict:
    """The largest difference of what two sides say of the same rows, by model.

    ValueError where they do not speak of equally many tokens.
    """
    found = {}
    for name, x in mine.items():
        a, b = np.asarray(x), np.asarray(theirs[name])
        if a.shape != b.shape:
            raise ValueError(f"{name}: one side gives {a.shape}, the other {b.shape}")
        found[name] = float(np.abs(a - b).max())
    return found


def over(own: dict, other: dict, metric: str, noted: bool) -> str:
    """The ratio of a part's seconds over ours, in words; noted: ours took it from its writing."""
    if noted:
        return "noted while writing"
    r = tables.ratios(tables.as_rows(own, metric), tables.as_rows(other, metric), metric)
    return f"{r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})"


def table(result: dict) -> str:
    """Seconds of a round and of its parts by side, ratios over ours, differences, memory."""
    metric = "cpu" if result["threads"] == 1 else "wall"
    own, rows = result["sides"][0], []
    tokens = result["rows"] * result["new"]
    for part in ("whole round", *rounds.PARTS):
        take = lambda s, part=part: s["parts"].get(part, s)
        noted = part == "policy" and own["info"].get("noted", False)
        for s in result["sides"]:
            rows.append([
                part, s["name"], tables.seconds_text(take(s)["cpu"]),
                tables.seconds_text(take(s)["wall"]),
                "" if noted and s is own else f"{tokens / tables.median_of(take(s), 'wall'):.1f}",
                "" if s is own else over(take(own), take(s), metric, noted),
                "" if s is own or part not in s["differences"] else f"{s['differences'][part]:.1e}",
                f"{s['peak'] / 1e9:.2f}" if part == "whole round" else "",
            ])  # fmt: skip
    what = tables.measured(result)
    head = [
        f"{result['family']} {result['size']}, {result['rows']} x ({result['prompt']} + "
        f"{result['new']})",
        "side", "CPU-s", "wall s", "answers' tokens/s (wall)", f"ratio over ours ({what})",
        "differs by", "peak GB",
    ]  # fmt: skip
    return tables.grid(head, rows)
