"""Makes tables of labelled rows or of pairs out of what `scripts.prepare fetch` brought.

    python -m scripts.prepare fetch spam
    python -m scripts.prepare table spam --source data/spam --out data/spam.jsonl.gz

Each table is JSON, an object a line, as `train/data/tables.py` reads it:

    spam          text, label (spam, ham), group (near-duplicates share one)   from spam
    sections      text, label (Debian's section), group (source package)       from debian-*
    synopses      text (a long description), target (its one line), part,      from debian-*
                  name (part/package)
    en-de, en-fr  text (English), target (a volunteer's translation), part     from debian-translations
    squad         question, context, answers, title, group (the article)       from bigbench

`part` is train, heldout (5 %) or test (5 %), by a hash of the source package, so that packages built
from one source stand on one side.
"""

import contextlib
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import xxhash

from scripts.prepare import debian, mail
from train.core.errors import Parser
from train.data.tables import read

SQUAD = "squad_shifts/squaddev_v1.1.json"
SLIP = 8  # characters by which an answer's place may be off in the package's copy


def part(key: str) -> str:
    """train, heldout or test: by a hash of the key, 90, 5 and 5 per cent of the keys."""
    place = xxhash.xxh3_64_intdigest(key.encode()) % 20
    return {0: "test", 1: "heldout"}.get(place, "train")


def spam(source: Path):
    """Mails without their headers; an empty body is left out and counted."""
    rows = list(mail.mails(source))
    groups = mail.near([text for text, _ in rows])
    for (text, label), group in zip(rows, groups, strict=True):
        yield {"text": text, "label": label, "group": group}


def sections(source: Path, least: int = 200):
    """Long descriptions and sections with at least `least` distinct ones."""
    packages = debian.packages(source)
    rows = [
        {
            "text": entry.text,
            "label": packages[entry.name].section,
            "group": packages[entry.name].source,
        }
        for entry in debian.distinct(source, "en")
        if entry.name in packages
    ]
    sizes = Counter(row["label"] for row in rows)
    yield from (row for row in rows if sizes[row["label"]] >= least)


def synopses(source: Path):
    """A package's paragraphs, and the one line that stands for them."""
    packages = debian.packages(source)
    for entry in debian.distinct(source, "en"):
        if entry.name in packages and entry.paragraphs:
            own = part(packages[entry.name].source)
            yield {
                "text": "\n".join(entry.paragraphs),
                "target": entry.line,
                "part": own,
                "name": f"{own}/{entry.name}",
            }


def translations(source: Path, language: str):
    """Lines and paragraphs of descriptions that have as many of them in both languages."""
    packages, seen = debian.packages(source), set()
    english = {entry.digest: entry for entry in debian.distinct(source, "en")}
    for entry in debian.distinct(source, language):
        mine = english.get(entry.digest)
        if mine is None or len(mine.paragraphs) != len(entry.paragraphs):
            continue
        name = packages[mine.name].source if mine.name in packages else mine.name
        for text, target in zip(
            (mine.line, *mine.paragraphs), (entry.line, *entry.paragraphs), strict=True
        ):
            if text != target and (text, target) not in seen:
                seen.add((text, target))
                yield {"text": text, "target": target, "part": part(name)}


def squad(source: Path):
    """SQuAD 1.1's development set, which says itself that it must not be trained on for release."""
    found = sorted(Path(source).rglob("squaddev_v1.1.json"))
    if not found:
        raise ValueError(f"{source} holds no {SQUAD}: python -m scripts.prepare fetch bigbench")
    moved = 0
    for row in read(str(found[0])).rows:
        starts = []
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            near = row["context"].find(text, max(start - SLIP, 0), start + SLIP + len(text))
            if near < 0:
                raise ValueError(f"{found[0]}: {text!r} is not near character {start} of its text")
            exact = row["context"].startswith(text, start)
            starts.append(start if exact else near)
            moved += not exact
        answers = {"text": row["answers"]["text"], "answer_start": starts}
        yield {**row, "answers": answers, "group": row["title"]}
    if moved:
        print(f"squad: {moved} answers stood up to {SLIP} characters from their place")


RECIPES = {
    "spam": spam,
    "sections": sections,
    "synopses": synopses,
    "en-de": lambda source: translations(source, "de"),
    "en-fr": lambda source: translations(source, "fr"),
    "squad": squad,
}


def write(rows, out: Path) -> int:
    """Writes the rows beside `out` first; the same rows give the same bytes. Returns their number."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial, count = out.with_name(out.name + ".partial"), 0
    try:
        with contextlib.ExitStack() as opened:
            file = raw = opened.enter_context(open(partial, "wb"))
            if out.suffix == ".gz":
                file = opened.enter_context(gzip.GzipFile("", "wb", 6, raw, 0))
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                count += 1
        if not count:
            raise ValueError(f"no row for {out}")
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return count


def main(argv) -> int:
    """The command line of ``python -m scripts.prepare table``."""
    parser = Parser(prog="python -m scripts.prepare table", description=__doc__)
    parser.add_argument("name", choices=RECIPES, help="which table")
    parser.add_argument("--source", required=True, help="folder that fetch made")
    parser.add_argument("--out", default="", help="file to write (default: data/NAME.jsonl.gz)")
    given = parser.parse_args(argv)
    source = Path(given.source)
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}: python -m scripts.prepare fetch --list")
    out = Path(given.out or f"data/{given.name}.jsonl.gz")
    if not {".jsonl"} & set(out.suffixes) or out.suffix not in (".jsonl", ".gz"):
        raise ValueError(f"--out is {out}; expected a name ending in .jsonl or .jsonl.gz")
    count = write(RECIPES[given.name](source), out)
    print(f"{given.name}: {count:,} rows in {out}")
    return 0
