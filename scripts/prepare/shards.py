"""Shards of a token store, by worker processes that make the same bytes however many they are."""

import json
import multiprocessing
import os
import shutil
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path

import xxhash

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


def make_tokenizer(source, spec, heldout):
    """Loads the tokenizer that ``spec`` names, or trains it: on 64 M characters not held out."""

    def texts():
        names = [work.name for work in sources.works(source)]
        held = set(sources.held_out(names, heldout, source))
        seen = 0
        for number, work in enumerate(sources.works(source)):
            if number not in held and seen < TRAIN_CHARACTERS:
                text = work.text[: TRAIN_CHARACTERS - seen]
                seen += len(text)
                yield text

    return tokenizer.named(spec, texts)


def begin(folder, plan, overwrite) -> tokenizer.Tokenizer:
    """Makes the folder, or checks that it was begun with the same plan; returns its tokenizer.

    Nothing is written or removed before a new store's tokenizer is there: a mistake in the command
    costs neither the store that is to be replaced nor the folder's name.
    """
    saved, wanted = folder / "tokenizer", None
    going_on = check_begun(folder, plan, overwrite)
    if not going_on or not saved.is_dir():
        wanted = make_tokenizer(plan["source"], plan["tokenizer"], tuple(plan["heldout"]))
    if not going_on and (folder / "plan.json").is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    store.write_json(folder / "plan.json", plan)
    if wanted is not None:
        partial = folder / "tokenizer.partial"
        shutil.rmtree(partial, ignore_errors=True)
        wanted.save(partial)
        partial.rename(saved)
    return tokenizer.Tokenizer.load(saved)


def check_begun(folder, plan, overwrite) -> bool:
    """Whether a store that was begun in the folder goes on; ValueError unless by the same plan."""
    file, spec = folder / "plan.json", plan["tokenizer"]
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} is neither empty nor a token store: name another --out")
        return False
    if overwrite:
        return False
    way_out = "name another --out, or pass --overwrite"
    old = store.read_json(file)
    for field, value in plan.items():
        if old.get(field) != value:
            was = f"{folder} was begun with {field} {old.get(field)!r}"
            raise ValueError(f"{was}, not {value!r}: {way_out}")
    if spec != "gpt2" and Path(spec).exists() and (folder / "tokenizer").is_dir():
        own, now = (tokenizer.Tokenizer.load(path) for path in (folder / "tokenizer", spec))
        if (own.hash, own.eos) != (now.hash, now.eos):
            was = f"{folder} was begun with another tokenizer than {spec} holds now"
            raise ValueError(f"{was}: {way_out}")
    return True


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
    if Path(source).exists() and Path(source).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--source {source} lies in --out {out}: name another --out")
    made = begin(folder, plan, overwrite)
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
