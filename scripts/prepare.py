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

import json
import multiprocessing
import os
import shutil
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path

import xxhash
from rich import progress as bars

from scripts import fetch, tables
from train.core.errors import Parser, cleanly
from train.data import sources, store, tokenizer

SHARD_CHARACTERS = 16_000_000
TRAIN_CHARACTERS = 64_000_000
_WORKER = {}


def units(works, characters):
    """Groups documents, in order, until each group has at least ``characters``."""
    group, count = [], 0
    for work in works:
        group.append(work)
        count += len(work.text)
        if count >= characters:
            yield group
            group, count = [], 0
    if group:
        yield group


def unit_hash(works) -> str:
    """Returns the xxh3 of the names and texts of a unit: what its shard was made from."""
    state = xxhash.xxh3_128()
    for work in works:
        for part in (work.name.encode("utf-8", "surrogatepass"), work.text.encode("utf-8")):
            state.update(len(part).to_bytes(8, "little"))
            state.update(part)
    return state.hexdigest()


def finished(folder, number, unit, tokens_hash) -> dict:
    """Returns the sidecar of a shard that is already as it would be made, or an empty dict."""
    stem = folder / f"shard-{number:05d}"
    try:
        sidecar = json.loads(stem.with_suffix(".json").read_bytes())
        if (sidecar["unit"], sidecar["tokenizer"]) != (unit, tokens_hash):
            return {}
        for part in store.PARTS:
            described = sidecar if part == "bin" else sidecar[part]
            file = stem.with_suffix("." + part)
            if file.stat().st_size != described["size"]:
                return {}
            if sources.hash_file(file) != described["xxh3"]:
                return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return sidecar


def choose_tokenizer(source, spec, heldout, folder):
    """Loads the store's tokenizer, or makes it: trained on the first 64 M characters not held out."""
    saved = folder / "tokenizer"
    if saved.is_dir():
        return tokenizer.Tokenizer.load(saved)

    def texts():
        names = [work.name for work in sources.works(source)]
        held = set(sources.held_out(names, heldout, source))
        seen = 0
        for number, work in enumerate(sources.works(source)):
            if number not in held and seen < TRAIN_CHARACTERS:
                seen += len(work.text)
                yield work.text

    made = tokenizer.named(spec, texts)
    partial = folder / "tokenizer.partial"
    shutil.rmtree(partial, ignore_errors=True)
    made.save(partial)
    partial.rename(saved)
    return tokenizer.Tokenizer.load(saved)


def begin(folder, plan, overwrite) -> None:
    """Makes the folder, or checks that it was begun with the same plan."""
    if overwrite and (folder / "plan.json").is_file():
        shutil.rmtree(folder)
    if (folder / "plan.json").is_file():
        old = json.loads((folder / "plan.json").read_bytes())
        for field, value in plan.items():
            if old.get(field) != value:
                raise ValueError(
                    f"{folder} was begun with {field} {old.get(field)!r}, not {value!r}: "
                    "name another --out, or pass --overwrite"
                )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is neither empty nor a token store: name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    store.write_json(folder / "plan.json", plan)


def prepare(
    source, spec, out, workers=1, characters=SHARD_CHARACTERS, heldout=(), overwrite=False, bar=None
) -> dict:
    """Builds (or goes on building) the store ``out`` and returns its record, store.json.

    ``bar``: called with (characters, tokens) after each shard. Raises ValueError or
    FileNotFoundError for bad input; nothing that was finished is lost by it.
    """
    folder = Path(out)
    if characters < 1 or workers < 1:
        raise ValueError(f"shard characters {characters} and workers {workers} must be at least 1")
    if heldout:
        sources.held_out([work.name for work in sources.works(source)], heldout, source)
    next(sources.works(source))
    plan = {"source": source, "tokenizer": spec, "characters": characters, "heldout": list(heldout)}
    begin(folder, plan, overwrite)
    made = choose_tokenizer(source, spec, tuple(heldout), folder)
    (folder / "store.json").unlink(missing_ok=True)
    sidecars = {}
    for number, sidecar, kept in shards(source, folder, made, workers, characters):
        sidecars[number] = sidecar
        if bar:
            bar(sidecar["characters"], sidecar["tokens"], kept)
    for stray in folder.glob("shard-*"):
        if int(stray.name[6:11]) >= len(sidecars):
            stray.unlink()
    ordered = [sidecars[number] for number in range(len(sidecars))]
    record = {
        "format": store.FORMAT,
        "source": source,
        "heldout": list(heldout) or list(sources.HELDOUT.get(source, ())),
        "tokenizer": made.hash,
        "vocab": made.vocab,
        "eos": made.eos,
        "shards": [{key: s[key] for key in ("file", "tokens", "size", "xxh3")} for s in ordered],
    }
    for field in ("tokens", "documents", "characters", "bytes"):
        record[field] = sum(sidecar[field] for sidecar in ordered)
    store.write_json(folder / "store.json", record)
    return record


def shards(source, folder, made, workers, characters):
    """Yields (number, sidecar, whether it was there already) as shards are finished, in any order."""
    groups = enumerate(units(sources.works(source), characters))
    if workers == 1:
        for number, works in groups:
            unit = unit_hash(works)
            kept = finished(folder, number, unit, made.hash)
            sidecar = kept or store.write_shard(folder, number, works, made, unit)
            yield number, sidecar, bool(kept)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _start_worker, (str(folder),))
    pending = {}
    try:
        for number, works in groups:
            unit = unit_hash(works)
            if kept := finished(folder, number, unit, made.hash):
                yield number, kept, True
                continue
            pending[pool.submit(_make_shard, number, works, unit)] = number
            if len(pending) >= 2 * workers:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result(), False
        for future in list(pending):
            yield pending[future], future.result(), False
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker died (out of memory?): what is finished is kept, run the same command again, "
            "with fewer --workers or smaller --shard-characters"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(folder):
    """Loads the tokenizer once a worker, and ends the worker when its parent is gone."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()

    def watch():
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _WORKER["folder"] = Path(folder)
    _WORKER["tokenizer"] = tokenizer.Tokenizer.load(Path(folder) / "tokenizer")


def _make_shard(number, works, unit):
    return store.write_shard(_WORKER["folder"], number, works, _WORKER["tokenizer"], unit)


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

        record = prepare(
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
    plain = paths and all(path.suffix in (".jsonl", *sources.TEXT_SUFFIXES) for path in paths)
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
        parser.add_argument("--shard-characters", type=int, default=SHARD_CHARACTERS)
        parser.add_argument("--heldout", default="", help="comma-separated works or patterns")
        parser.add_argument("--overwrite", action="store_true", help="replace another store")
    arguments = parser.parse_args(argv[1:] if command else argv)
    if command == "check":
        found = store.Store(arguments.store, verify=True)
        print(f"{arguments.store}: {found.tokens:,} tokens, all {len(found.shards)} shards intact")
    else:
        build(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
