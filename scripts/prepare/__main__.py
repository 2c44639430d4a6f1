"""Makes a token store out of text, JSONL, Parquet or a hub data set; fetches data sets.

    python -m scripts.prepare --source books/ --tokenizer gpt2 --out stores/books --workers 8
    python -m scripts.prepare --source corpus.jsonl.xz --tokenizer bpe:8192 --out stores/corpus
    python -m scripts.prepare check stores/books
    python -m scripts.prepare fetch --list
    python -m scripts.prepare fetch fashion-mnist [--out FOLDER] [--file ARCHIVE]
    python -m scripts.prepare table spam --source data/spam

The documents are cut into units of about ``--shard-characters``, one shard each, so the store is
the same bytes for any number of workers. Killed at any time, the same command goes on: shards whose
sidecar, documents and tokenizer agree are kept. A tokenizer to be trained sees the documents that
are not held out. ``--source`` takes what ``train/data/sources.py`` describes.
"""

import os
import sys
from pathlib import Path

from rich import progress as bars

from scripts.prepare import fetch, shards, tables
from train.core.errors import Parser, cleanly
from train.data import sources, store, tokenizer


def build(arguments) -> None:
    """The command without a sub-command: builds a store with a progress bar."""
    if not arguments.source or not arguments.out:
        raise ValueError("--source and --out are needed (see --help)")
    if store.is_store(arguments.source):
        raise ValueError(f"{arguments.source} is a token store already")
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[tokens]:,} tokens"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    count = {"kept": 0, "made": 0, "tokens": 0}
    heldout = tuple(name for name in arguments.heldout.split(",") if name)
    with bars.Progress(*columns) as shown:
        task = shown.add_task("tokenising", total=_size(arguments.source), tokens=0)

        def bar(characters, tokens, kept):
            count["kept" if kept else "made"] += 1
            count["tokens"] += tokens
            shown.update(task, advance=characters, tokens=count["tokens"])

        record = shards.prepare(
            arguments.source,
            arguments.tokenizer,
            arguments.out,
            arguments.workers,
            arguments.shard_characters,
            heldout,
            arguments.overwrite,
            bar,
        )
        shown.update(task, total=record["characters"], completed=record["characters"])
    print(
        f"{arguments.out}: {record['tokens']:,} tokens of {record['documents']:,} documents "
        f"({record['characters']:,} characters) in {len(record['shards'])} shards, "
        f"{count['kept']} of them kept from an earlier run"
    )


def _size(source):
    """Returns the characters to expect, roughly the bytes of plain text files; None if unknown."""
    paths = sources.files(source)
    known = (*sources.ROW_SUFFIXES, *sources.TEXT_SUFFIXES)
    plain = paths and all(path.suffix.lower() in known for path in paths)
    return sum(path.stat().st_size for path in paths) if plain else None


def main(argv=None) -> int:
    """The command line; see the module."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["fetch"]:
        return fetch.main(argv[1:])
    if argv[:1] == ["table"]:
        return tables.main(argv[1:])
    command = "check" if argv[:1] == ["check"] else ""
    parser = Parser(
        prog=f"python -m scripts.prepare {command}".strip(),
        description=__doc__,
    )
    if command == "check":
        parser.add_argument("store", help="folder of a token store")
    else:
        parser.add_argument("--source", default="", help="text, JSONL, Parquet, folder, hub:...")
        parser.add_argument("--tokenizer", default="gpt2", help="gpt2, char, bpe:8192, a path")
        parser.add_argument("--out", default="", help="folder of the store")
        parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
        parser.add_argument("--shard-characters", type=int, default=shards.SHARD_CHARACTERS)
        parser.add_argument("--heldout", default="", help="comma-separated works or patterns")
        parser.add_argument("--overwrite", action="store_true", help="replace another store")
    arguments = parser.parse_args(argv[1:] if command else argv)
    if command == "check":
        store.read_record(arguments.store)
        own = tokenizer.Tokenizer.load(Path(arguments.store) / "tokenizer")
        found = store.Store(arguments.store, own, verify=True)
        print(f"{arguments.store}: {found.tokens:,} tokens, all {len(found.shards)} shards intact")
    else:
        build(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
