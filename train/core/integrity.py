"""A manifest of every file of a checkpoint: size and xxh3-128; and a checksum of the manifest itself.

Orbax restores an array with a flipped bit without a word; the manifest does not. It is written last,
so it also marks a checkpoint as finished.

How much is read again before a checkpoint is used (config.checkpoint.verify): `always` hashes every
byte; `auto` does, too, up to MUCH bytes, and compares only sizes beyond; `never` wants no more than
that there is a manifest.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

import xxhash

NAME = "INTEGRITY.json"
REMOVED = ".removed"  # the ending of a checkpoint's folder while it is deleted
BLOCK = 1 << 22  # bytes read at a time
MUCH = 64 << 30  # bytes: about a minute from a local disk


def digest(path) -> str:
    """xxh3-128 of a file's bytes, in hex."""
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
    return state.hexdigest()


def _own(rows: dict) -> str:
    return xxhash.xxh3_128(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _files(folder: Path, leave):
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME)
    return [p for p in found if p.relative_to(folder).as_posix() not in leave]


def write(folder, leave=()):
    """Writes the manifest of a folder in one step: it is there whole or not at all.

    `leave` names files that are not part of it.
    """
    folder = Path(folder)
    rows = {
        p.relative_to(folder).as_posix(): {"size": p.stat().st_size, "xxh3_128": digest(p)}
        for p in _files(folder, leave)
    }
    part = folder / f"{NAME}.part"
    with open(part, "w") as file:
        json.dump({"files": rows, "own": _own(rows)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / NAME)


def _read(folder: Path) -> dict:
    """{file: (size, hash)}; ValueError says what is wrong with the manifest."""
    if not (folder / NAME).is_file():
        raise ValueError(f"{NAME} is missing")
    try:
        held = json.loads((folder / NAME).read_text())
        rows = held["files"]
        found = {name: (int(row["size"]), str(row["xxh3_128"])) for name, row in rows.items()}
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError,
            RecursionError) as error:  # fmt: skip
        raise ValueError(f"{NAME} cannot be read ({type(error).__name__})") from None
    if set(held) != {"files"} and (set(held) != {"files", "own"} or held["own"] != _own(rows)):
        raise ValueError(f"{NAME} does not fit its own checksum")
    if not found:
        raise ValueError(f"{NAME} names no file")
    return found


def problems(folder, verify: str = "auto") -> list[str]:
    """What differs from the manifest, one line per file; empty when all is well."""
    folder = Path(folder)
    try:
        rows = _read(folder)
    except ValueError as error:
        return [str(error)]
    if verify == "never":
        return []
    hashed = verify == "always" or sum(size for size, _ in rows.values()) <= MUCH
    found = []
    for name, (size, known) in rows.items():
        try:
            problem = _problem(folder / name, size, known if hashed else "")
        except (OSError, ValueError) as error:  # a disk that fails; no name of a file
            problem = f"cannot be read: {getattr(error, 'strerror', '') or error}"
        found += [f"{name:.200} {problem}"] * bool(problem)
    return found


def _problem(path: Path, size: int, known: str) -> str:
    """How a file differs from its size and hash (not read where that is ""); "" if it does not."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes instead of {size}"
    return "has the right size and other content" if known and digest(path) != known else ""


def remove(folder):
    """Deletes a checkpoint: cut short, it leaves a folder whose name says so."""
    folder = Path(folder)
    gone = folder.with_name(folder.name + REMOVED)
    _gone(gone)
    os.replace(folder, gone)
    _gone(gone)


def _gone(path: Path):
    """Deletes a folder, or what stands in its place: of a link the link alone."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()
