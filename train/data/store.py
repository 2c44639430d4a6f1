"""The token store: shards of token ids with a sidecar each.

A store is a folder:

    store.json           what is in it, written last: a store without it is not finished
    tokenizer/           the tokenizer it was written with
    shard-00000.bin      token ids, little-endian uint16 (or uint32 where the vocabulary asks for
                         it); every document is followed by end-of-text if the tokenizer has one
    shard-00000.index    int64 [documents, 3]: where the document ends in the shard (its end-of-text
                         included), its characters, its bytes of UTF-8
    shard-00000.names    the documents' names, a JSON list
    shard-00000.json     the sidecar: dtype, count, tokenizer hash, size and xxh3 of the three files

Sizes are compared with the sidecar when a store is opened, and again before each read.
"""

import json
import os
from pathlib import Path

import numpy as np
import xxhash

from train.data import sources
from train.data.corpus import Corpus, tokenize

FORMAT = 1
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
VERIFY_LIMIT = 1 << 30
BLOCK = 1 << 22  # tokens read at once while they are verified
PARTS = ("bin", "index", "names")


class Shard:
    """One ``.bin`` file, read in pieces by position; what changes under it is an error, no crash.

    A memory map would save a few microseconds a row (9 us instead of 15 for 1,024 tokens, measured
    on a busy machine) and end the process with SIGBUS where the file was truncated or the disk
    fails. Before each read the size and time of the file are compared with those at opening; where
    only the time is another, its checksum decides.
    """

    def __init__(self, path, count, dtype, xxh3="", vocab=1 << 31):
        self.path, self.count, self.dtype = Path(path), count, DTYPES[dtype]
        self.xxh3, self.vocab = xxh3, vocab
        self.file = open(path, "rb")
        self.state = self._state()
        if self.state[0] != count * self.dtype.itemsize:
            raise ValueError(_size_message(self.path, self.state[0], count * self.dtype.itemsize))

    def _state(self):
        found = os.fstat(self.file.fileno())
        return found.st_size, found.st_mtime_ns

    def read(self, start, stop):
        """Returns tokens start..stop as int32; ValueError names a file that changed, fails, or
        holds a token that the vocabulary lacks."""
        size, at = (stop - start) * self.dtype.itemsize, start * self.dtype.itemsize
        try:
            now = self._state()
            if now != self.state:
                self._changed(now)
            found = os.pread(self.file.fileno(), size, at)
            while 0 < len(found) < size:
                more = os.pread(self.file.fileno(), size - len(found), at + len(found))
                if not more:
                    break
                found += more
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(f"{self.path} cannot be read: {reason}") from error
        if len(found) != size:
            raise ValueError(_size_message(self.path, at + len(found), self.state[0]))
        tokens = np.frombuffer(found, self.dtype)
        if len(tokens) and tokens.max() >= self.vocab:
            raise ValueError(
                f"{self.path} holds token {tokens.max()}; its tokenizer has {self.vocab:,} tokens"
            )
        return tokens.astype(np.int32)

    def _changed(self, now):
        """Takes a file that was only touched; ValueError for one with another size or content."""
        if now[0] != self.state[0]:
            raise ValueError(_size_message(self.path, now[0], self.state[0]))
        if not self.xxh3 or sources.hash_file(self.path) != self.xxh3:
            raise ValueError(
                f"{self.path} was altered while it was being read: its checksum is not the "
                "sidecar's.\nRemove it and run scripts.prepare again"
            )
        self.state = now


class Store(Corpus):
    """A folder of shards, opened without reading the tokens (unless they are to be verified)."""

    def __init__(self, folder, tokenizer=None, verify="auto"):
        self.folder = Path(folder)
        self.record = record = read_record(self.folder)
        if tokenizer is not None and tokenizer.hash != record["tokenizer"]:
            raise ValueError(
                f"{folder} was written with tokenizer {record['tokenizer'][:12]}, not with this "
                f"run's ({tokenizer.kind}, {tokenizer.hash[:12]}):\n"
                f"use --config.data.tokenizer={self.folder / 'tokenizer'}"
            )
        if tokenizer is not None and tokenizer.vocab != record["vocab"]:
            raise ValueError(
                f"{self.folder / 'store.json'} is damaged: vocab = {record['vocab']}, its tokenizer "
                f"has {tokenizer.vocab} tokens"
            )
        if tokenizer is not None and tokenizer.eos != record["eos"]:
            raise ValueError(
                f"{folder} ends its documents with token {record['eos']}, this run's tokenizer "
                f"says {tokenizer.eos} (-1: none)"
            )
        rows, names, files, self.shards = [], [], [], []
        total = 0
        for entry in record["shards"]:
            sidecar = read_sidecar(self.folder / entry["file"], record)
            if sidecar["xxh3"] != entry["xxh3"]:
                raise ValueError(f"{self.folder / entry['file']} is not the shard in store.json")
            index = np.frombuffer(_checked(self.folder, sidecar, "index"), "<i8").reshape(-1, 3)
            found = json.loads(_checked(self.folder, sidecar, "names"))
            _check_index(self.folder / entry["file"], index, found, sidecar)
            rows.append(index + np.array([total, 0, 0]))
            names += found
            path = self.folder / sidecar["file"]
            stated = sidecar["tokens"], sidecar["dtype"], sidecar["xxh3"]
            self.shards.append(Shard(path, *stated, record["vocab"]))
            files.append({k: sidecar[k] for k in ("size", "xxh3")} | {"path": sidecar["file"]})
            total += sidecar["tokens"]
        self.first = np.cumsum([0] + [shard.count for shard in self.shards])
        index = np.concatenate(rows) if rows else np.zeros((0, 3), np.int64)
        super().__init__(
            record.get("source", ""), record["eos"] >= 0, index, names, files, record["heldout"]
        )
        size = sum(file["size"] for file in files)
        if verify is True or (verify == "auto" and size <= VERIFY_LIMIT):
            self.verify()

    def verify(self) -> None:
        """Compares every shard's xxh3 with the sidecar's, and its tokens with the vocabulary;
        ValueError names a bad one."""
        for shard, file in zip(self.shards, self.files):
            if sources.hash_file(shard.path) != file["xxh3"]:
                raise ValueError(
                    f"{shard.path} was altered: its checksum is not the sidecar's; "
                    "remove it and run scripts.prepare again"
                )
            for start in range(0, shard.count, BLOCK):
                shard.read(start, min(start + BLOCK, shard.count))

    def read(self, start, stop):
        """Returns the tokens of start..stop as int32, across shards; stop may be past the end."""
        stop = min(stop, self.tokens)
        parts = [np.zeros(0, np.int32)] if start >= stop else []
        number = int(np.searchsorted(self.first, start, side="right")) - 1
        while start < stop:
            base, end = int(self.first[number]), int(self.first[number + 1])
            if end > start:
                parts.append(self.shards[number].read(start - base, min(stop, end) - base))
                start = min(stop, end)
            number += 1
        return np.concatenate(parts) if len(parts) != 1 else parts[0]


def write_shard(folder, number, works, tokenizer, unit) -> dict:
    """Tokenises documents into shard ``number`` and returns its sidecar; the same input gives the
    same bytes. Every file appears under its name only when complete, the sidecar last.
    """
    folder = Path(folder)
    dtype = "uint16" if tokenizer.vocab <= 1 << 16 else "uint32"
    parts, index = tokenize(works, tokenizer)
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    stem = f"shard-{number:05d}"
    contents = {
        "bin": tokens.astype(DTYPES[dtype]).tobytes(),
        "index": index.astype("<i8").tobytes(),
        "names": json.dumps([work.name for work in works], ensure_ascii=True).encode(),
    }
    sidecar = {
        "format": FORMAT,
        "file": f"{stem}.bin",
        "dtype": dtype,
        "tokens": len(tokens),
        "documents": len(works),
        "characters": int(index[:, 1].sum()),
        "bytes": int(index[:, 2].sum()),
        "tokenizer": tokenizer.hash,
        "unit": unit,
    }
    for part in PARTS:
        digest = xxhash.xxh3_128_hexdigest(contents[part])
        described = {"size": len(contents[part]), "xxh3": digest}
        sidecar.update(described if part == "bin" else {part: described})
        write_file(folder / f"{stem}.{part}", contents[part])
    write_json(folder / f"{stem}.json", sidecar)
    return sidecar


def write_json(path, contents) -> None:
    """Writes JSON under its final name only when it is complete and on disk."""
    write_file(path, (json.dumps(contents, indent=1, sort_keys=True) + "\n").encode())


def write_file(path, contents: bytes) -> None:
    """Writes bytes to a temporary name, syncs, and renames."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def is_store(source: str) -> bool:
    """Says whether a source is a store's folder, finished or not."""
    return any((Path(source) / name).is_file() for name in ("store.json", "shard-00000.bin"))


def read_record(folder) -> dict:
    """Reads and checks store.json."""
    file = Path(folder) / "store.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is not a finished token store (no store.json): run scripts.prepare again"
        )
    record = read_json(file)
    fields = {"shards": list, "tokenizer": str, "vocab": int, "eos": int, "heldout": list}
    for field, kind in fields.items():
        if not isinstance(record.get(field), kind):
            raise ValueError(f"{file} is damaged: {field!r} is missing or not a {kind.__name__}")
    if record.get("format") != FORMAT:
        raise ValueError(f"{file} has format {record.get('format')!r}, this is format {FORMAT}")
    if not all(isinstance(name, str) for name in record["heldout"]):
        raise ValueError(f"{file} is damaged: 'heldout' holds {record['heldout']!r:.60}, not names")
    for entry in record["shards"]:
        name = entry.get("file") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name or "xxh3" not in entry:
            raise ValueError(f"{file} is damaged: {name!r} is not the name of a shard beside it")
    return record


def read_sidecar(path, record) -> dict:
    """Reads a shard's sidecar and compares it with the store and the sizes on disk."""
    file = Path(path).with_suffix(".json")
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: every shard needs its sidecar")
    sidecar = read_json(file)
    for field in ("tokens", "documents", "size"):
        if type(sidecar.get(field)) is not int or sidecar[field] < 0:
            raise ValueError(f"{file} is damaged: {field} = {sidecar.get(field)!r}")
    if sidecar.get("file") != Path(path).name or sidecar.get("dtype") not in DTYPES:
        raise ValueError(f"{file} is damaged: wrong file name or dtype")
    if sidecar.get("tokenizer") != record["tokenizer"]:
        raise ValueError(f"{file}: this shard was written with another tokenizer than the store")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run scripts.prepare again")
    want = sidecar["tokens"] * DTYPES[sidecar["dtype"]].itemsize
    if path.stat().st_size != want or sidecar["size"] != want:
        raise ValueError(_size_message(path, path.stat().st_size, want))
    return sidecar


def _size_message(path, found, want):
    return (
        f"{path} has {found:,} bytes, its sidecar says {want:,}: it was truncated or altered.\n"
        "Remove it and run scripts.prepare again"
    )


def _checked(folder, sidecar, part):
    path = (folder / sidecar["file"]).with_suffix("." + part)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run scripts.prepare again")
    contents = path.read_bytes()
    described = sidecar.get(part)
    if not isinstance(described, dict) or described.get("size") != len(contents):
        raise ValueError(f"{path} has {len(contents):,} bytes, which is not what its sidecar says")
    if xxhash.xxh3_128_hexdigest(contents) != described.get("xxh3"):
        raise ValueError(f"{path} was altered: its checksum is not the sidecar's")
    return contents


def _check_index(path, index, names, sidecar):
    ends = index[:, 0]
    sound = len(index) == len(names) == sidecar["documents"] and np.all(np.diff(ends) >= 0)
    if not sound or (int(ends[-1]) if len(ends) else 0) != sidecar["tokens"]:
        raise ValueError(f"{path}: its index does not describe its {sidecar['tokens']:,} tokens")


def read_json(file) -> dict:
    """The JSON object in a file; ValueError says that it is damaged."""
    try:
        contents = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: not valid JSON ({error})") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{file} is damaged: not a JSON object")
    return contents
