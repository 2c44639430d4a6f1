"""Where documents come from: embedded sets, files, folders, Parquet and hub data sets.

A source is named by one string:

    shakespeare               42 works, embedded
    kjv, web, kjv_web         the books of the King James and the World English Bible, embedded;
                              kjv_web is both (near-duplicates: hold out a book on both sides)
    vader-movies, -tweets, -amazon   rated snippets, embedded, one document each
    PATH.txt / any text file  one document
    PATH.jsonl[.gz|.xz|.bz2]  one document a line (``text``, and ``name``, ``work``, ``id`` or
                              ``title`` as its name)
    PATH.parquet              one document a row, the same columns (needs pyarrow)
    FOLDER                    every such file under it, in sorted order (.txt, .md, .rst, .py,
                              .jsonl, .ndjson, .parquet)
    hub:OWNER/NAME[:CONFIG[:SPLIT[:COLUMN]]]   a hub data set (needs the extra ``hub``)

Token stores (written by ``python -m scripts.prepare``) are opened by ``store.py``.
"""

import bz2
import difflib
import fnmatch
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from train.data import embedded_sets, extras

EMBEDDED = embedded_sets.FOLDER
NAMES = ("shakespeare", "kjv", "web", "kjv_web", *embedded_sets.VADER)
TEXT_KEYS = ("text", "content")
NAME_KEYS = ("name", "work", "id", "title")
COMPRESSED = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
DAMAGED = (EOFError, lzma.LZMAError, zlib.error, OSError)  # what a damaged archive raises
TEXT_SUFFIXES, LINE_LIMIT = (".txt", ".md", ".rst", ".py"), 256 << 20
ROW_SUFFIXES = (".jsonl", ".ndjson")
FIRST_PART, LAST_PART = " (first 95%)", " (last 5%)"

# Held out unless the config names others. Shakespeare: a comedy, a tragedy and a poem that share
# no passage with the other works (the Sonnets share two with The Passionate Pilgrim).
HELDOUT = {
    "shakespeare": ("tempest", "macbeth", "rape_of_lucrece"),
    "kjv": ("Ruth", "Ecclesiastes", "Mark"),
    "web": ("Ruth", "Ecclesiastes", "Mark"),
    "kjv_web": ("*/Ruth", "*/Ecclesiastes", "*/Mark"),
}


class Document(NamedTuple):
    """One whole work: its name, unique within a source as far as the source allows, and text."""

    name: str
    text: str


def documents(source: str) -> Iterator[Document]:
    """Yields the documents of a source, always in the same order.

    Raises ValueError or FileNotFoundError with the file, and the line where there is one, when the
    source does not exist or is malformed.
    """
    if source == "shakespeare":
        return _jsonl(EMBEDDED / "shakespeare.jsonl.xz")
    if source in ("kjv", "web", "kjv_web"):
        return (Document(*book) for book in embedded_sets.bible(source))
    if source in embedded_sets.VADER:
        rows = embedded_sets.ratings(source)
        return (Document(key, text) for key, _, text in rows)
    if source.startswith("hub:"):
        return _hub(source)
    return _files(files(source))


def works(source: str) -> Iterator[Document]:
    """Yields the documents of a source; a lone one is cut at 95 %, so that its end can be held out.

    The cut is after a line if there is one in reach; the parts are named "X (first 95%)" and
    "X (last 5%)".
    """
    found = documents(source)
    first = next(found, None)
    second = next(found, None)
    if first is None:
        raise ValueError(f"{source} holds no document")
    if second is None and len(first.text) >= 20:
        at = len(first.text) * 19 // 20
        at = first.text.rfind("\n", at - at // 10, at) + 1 or at
        yield Document(first.name + FIRST_PART, first.text[:at])
        yield Document(first.name + LAST_PART, first.text[at:])
        return
    yield first
    if second is not None:
        yield second
    yield from found


def held_out(names, patterns=(), source: str = "") -> list[int]:
    """Returns the indices of the documents that are held out for evaluation.

    ``patterns`` are names, or shell patterns such as "*/Mark"; ("none",) holds out nothing. Empty:
    the embedded sources' own choice (``HELDOUT``), the last part of a lone document, else one in
    twenty by a hash of the name. A pattern that names nothing, or everything, is a ValueError.
    """
    patterns = tuple(patterns) or HELDOUT.get(source, ())
    if patterns == ("none",):
        return []
    if not patterns:
        lone = [i for i, name in enumerate(names) if name.endswith(LAST_PART)]
        return lone if lone and len(names) == 2 else _one_in_twenty(names)
    chosen = set()
    for pattern in patterns:
        hits = matching(names, pattern)
        if not hits:
            near = difflib.get_close_matches(pattern, names[:100_000], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"held-out work {pattern!r} is not in {source or 'the source'}{hint}")
        chosen.update(hits)
    if len(chosen) == len(names):
        raise ValueError(f"holding out {', '.join(patterns)} leaves no document to train on")
    return sorted(chosen)


def matching(names, pattern: str) -> list[int]:
    """Returns the indices of the names equal to a pattern, else of those it matches."""
    exact = [i for i, name in enumerate(names) if name == pattern]
    return exact or [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)]


def _one_in_twenty(names):
    hashes = [xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")) for name in names]
    chosen = [i for i, value in enumerate(hashes) if value % 20 == 0]
    if len(names) > 1 and not 0 < len(chosen) < len(names):
        chosen = [hashes.index(min(hashes))]
    return chosen if len(names) > 1 else []


def files(source: str) -> list[Path]:
    """Returns the files that a source reads (for its size and fingerprint); none for the hub."""
    if source in ("shakespeare", "kjv", "web", "kjv_web"):
        shipped = "shakespeare.jsonl.xz" if source == "shakespeare" else "kjv_web.tsv.xz"
        return [EMBEDDED / shipped]
    if source in embedded_sets.VADER:
        return [EMBEDDED / "vader" / f"{embedded_sets.VADER[source]}_GroundTruth.txt.xz"]
    if source.startswith("hub:"):
        return []
    path = Path(source)
    if path.is_file():
        return [path]
    if source and path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _readable(file))
        if not found:
            raise ValueError(f"{source}: no text, JSONL or Parquet file under this folder")
        return found
    near = difflib.get_close_matches(source, NAMES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise FileNotFoundError(
        f"no source {source!r}: neither an embedded name ({', '.join(NAMES)}) "
        f"nor an existing path{hint}"
    )


def fingerprint(source: str) -> list[dict]:
    """Returns name, size and xxh3 of every file of a source."""
    if source.startswith("hub:"):
        return [{"path": source, "size": -1, "xxh3": ""}]
    return [
        {"path": file.name, "size": file.stat().st_size, "xxh3": hash_file(file)}
        for file in files(source)
    ]


def hash_file(path) -> str:
    """Returns the xxh3-128 of a file's bytes, read a mebibyte at a time."""
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _readable(path):
    return kind_of(path) in (*TEXT_SUFFIXES, *ROW_SUFFIXES, ".parquet")


def kind_of(path) -> str:
    """The suffix that says what a file is, in small letters: ".jsonl" of X.JSONL.gz; "" for none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), "")


def unpacked(path):
    """Opens a file to read its bytes, unpacked if its suffix says so; reading may raise `DAMAGED`."""
    return COMPRESSED.get(path.suffix.lower(), open)(path, "rb")


def _files(paths):
    several = len(paths) > 1
    for path in paths:
        kind = kind_of(path)
        prefix = f"{path.name}:" if several else ""
        if kind in ROW_SUFFIXES:
            yield from _jsonl(path, prefix)
        elif kind == ".parquet":
            yield from _parquet(path, prefix)
        else:
            yield Document(path.name if several else path.stem, _text(path))


def _text(path):
    try:
        with unpacked(path) as file:
            contents = file.read()
        return contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: bad byte at offset {error.start}") from error
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _lines(path):
    try:
        with unpacked(path) as file:
            number = 0
            while line := file.readline(LINE_LIMIT):
                number += 1
                if len(line) == LINE_LIMIT:
                    raise ValueError(f"{path}:{number}: a line of more than {LINE_LIMIT:,} bytes")
                yield number, line
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _jsonl(path, prefix=""):
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: not a line of JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: a JSON {type(row).__name__}, expected an object")
        yield _row(row, f"{path}:{number}", prefix, number)


def _row(row, where, prefix, number):
    """Takes the text and the name out of one row of a table, with the text checked."""
    key = next((key for key in TEXT_KEYS if key in row), "")
    text = row.get(key)
    if not isinstance(text, str):
        fields = ", ".join(map(str, list(row)[:8])) or "none"
        raise ValueError(f"{where}: no string in 'text' or 'content' (fields: {fields})")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: a lone surrogate at character {error.start}") from error
    name = next((row[key] for key in NAME_KEYS if isinstance(row.get(key), (str, int))), number)
    return Document(prefix + str(name), text)


def _parquet(path, prefix=""):
    for number, row in enumerate(extras.parquet(path, (*TEXT_KEYS, *NAME_KEYS)), 1):
        yield _row(row, f"{path}, row {number}", prefix, number)


def _hub(source):
    """Streams a data set of the hub; a fourth part of the source names the column of the texts."""
    column = (source.split(":")[4:] or [""])[0]
    for number, row in enumerate(extras.hub(source, streaming=True)):
        if column:
            row = {**row, "text": row.get(column)}
        yield _row(row, f"{source}, row {number}", "", number)
