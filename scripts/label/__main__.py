"""People rank a model's answers, in a page on this machine.

    python -m scripts.label --prompts prompts.jsonl --from runs/sft --labels labels.jsonl
    python -m scripts.label --labels labels.jsonl --export rankings.jsonl
    python -m scripts.label --labels labels.jsonl --pairs pairs.jsonl

Samples `--answers` answers to each prompt once (kept beside the labels, so that a session goes on where
it stopped; a command that asks for other answers then is refused), serves the page on loopback, and keeps
each judgement as it is made. Answers are shown shuffled and without a name; several people may label, each
under a name of their own, and their agreement is printed with an export. The exports are what
`train/reward.py` and `train/preference.py` read; ties are dropped from pairs, and a chat's prompt is its
list of messages. Beyond loopback (`--host`) a `--token` is needed.
"""

import secrets
import sys
from pathlib import Path

from scripts.label import answers, files
from scripts.label import server as label_server
from scripts.label import store as label_store
from train.core.errors import Parser, cleanly

OTHER = (".csv", ".tsv", ".parquet")  # kinds of tables that an export is not


def arguments(argv=None):
    parser = Parser(prog="python -m scripts.label", description=__doc__)
    add = parser.add_argument
    add("--labels", required=True, help="the file of judgements, appended to")
    add("--prompts", help="a table with a column `prompt`")
    add("--from", dest="source", metavar="RUN_OR_FOLDER", help="the model that answers")
    add("--answers", type=int, help="answers to a prompt, 4 to 9, repeats among them; default 4")
    add("--max_new_tokens", type=int, help="default 64")
    add("--temperature", type=float, help="default 1")
    add("--seed", type=int, help="default 0")
    add("--chat", action="store_true", help="prompts go through the model's own chat template")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8765)
    add("--token", default="", help="what a browser must know; made up beyond loopback")
    add("--export", metavar="FILE", help="writes rankings and stops")
    add("--pairs", metavar="FILE", help="writes pairs without ties and stops")
    return parser.parse_args(argv)


def refuse_overwriting(a):
    """ValueError where an export would take the place of the labels, their answers or the other export."""
    kept = {Path(a.labels).resolve(): "--labels", answers.beside(a.labels).resolve(): "the answers"}
    for name in ("export", "pairs"):
        if path := getattr(a, name):
            if Path(path).suffix in OTHER:
                raise ValueError(f"--{name} {path}: rows of JSON are written; expected .jsonl")
            where = Path(path).resolve()
            same = where.exists() and next(
                (p for p in kept if p.exists() and p.samefile(where)), None
            )
            if where in kept or same:
                said = kept[same or where]
                raise ValueError(f"--{name} {path} is the file of {said}; expected another one")
            kept[where] = f"--{name}"


def export(a, store):
    """Writes what was asked for, and says how far the labellers agree."""
    records = store.records()
    if not answers.headed(a.labels):
        records = [{**row, "prompt": answers.talk(row["prompt"])} for row in records]
    for path, rows in ((a.export, label_store.rankings), (a.pairs, label_store.pairs)):
        if path:
            made = rows(records)
            files.write(path, made)
            print(f"{len(made)} rows in {path}")
    found = label_store.agreement(records)
    if found["pairs"]:
        print(
            f"labellers agree on {found['agree']} of {found['pairs']} pairs ({found['share']:.1%})"
        )
    else:
        print("no pair was ordered by two labellers, so that their agreement is not known")


def main(argv=None) -> int:
    a = arguments(argv)
    if a.export or a.pairs:
        path = Path(a.labels)
        if not path.is_file() or not path.stat().st_size:
            state = "is empty" if path.is_file() else "does not exist"
            raise FileNotFoundError(f"{a.labels} {state}; nothing was labelled yet")
        refuse_overwriting(a)
        export(a, label_store.Store(a.labels, []))
        return 0
    if a.host not in label_server.LOOPBACK and not a.token:
        a.token = secrets.token_urlsafe(24)
    store = label_store.Store(a.labels, [])
    store.hold()  # before sampling, so that two sessions never sample for one file
    try:
        store.items = {item["id"]: item for item in answers.sampled(a)}
        server = label_server.serve(store, a.host, a.port, a.token)
    except BaseException:
        store.release()
        raise
    print(server.url + (f"#{a.token}" if a.token else ""), flush=True)
    print("Ctrl-C ends the session; every judgement is on disk already", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
