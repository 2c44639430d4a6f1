"""Files of JSON lines that a crash, a full disk or a second server must not spoil."""

import fcntl
import json
import os
from pathlib import Path


def encoded(row) -> bytes:
    """A row's JSON in UTF-8; halves of surrogate pairs, which UTF-8 has no bytes for, are escaped."""
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(row).encode()


def parsed(path, number: int, line: bytes):
    """The value of a line; ValueError names the file and the line that is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}, line {number} is not JSON") from None


def rows(path, fields) -> tuple:
    """([(number, row)], torn) of a file's lines; `torn` is its last line where that has no end and is no JSON.

    `fields(row)` says what the row needs: {name: "" or, where its value is none, what was expected}.
    ValueError names the file, a line that is not JSON or no object, and what is missing or wrong in it.
    """
    whole, _, last = Path(path).read_bytes().rpartition(b"\n")
    found = []
    for number, line in enumerate([*whole.split(b"\n"), last], 1):
        if not line.strip():
            continue
        try:
            row = parsed(path, number, line)
        except ValueError:
            if line is last:
                return found, last
            raise
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is no object: {str(row)[:60]}")
        needed = fields(row)
        absent = [name for name in needed if name not in row]
        if absent:
            raise ValueError(f"{path}, line {number} lacks {', '.join(absent)}")
        for name, expected in needed.items():
            if expected:
                raise ValueError(
                    f"{path}, line {number}: {name} is {str(row[name])[:60]!r}; expected {expected}"
                )
        found.append((number, row))
    return found, b""


def write(path, made):
    """Writes rows as a whole: the file is the old one, or none, until every byte is on disk.

    OSError where that fails; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(b"".join(encoded(row) + b"\n" for row in made))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def append(path, row):
    """Adds a line and syncs it; an OSError leaves the file as long as it was before.

    A line that a crash tore before is cut off first; one that lacks its end alone is given it.
    """
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(file).st_size
        torn = _tail(file, before)
        whole = bool(torn) and _is_object(torn)
        if torn and not whole:
            before -= len(torn)
            os.ftruncate(file, before)
        left = b"\n" * whole + encoded(row) + b"\n"
        try:
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        except BaseException:
            os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


def _tail(file, size: int) -> bytes:
    """What stands behind the last end of a line."""
    found, step = b"", 1 << 16
    while size and b"\n" not in found:
        step = min(step, size)
        size -= step
        found = os.pread(file, step, size) + found
        if found.endswith(b"\n"):
            return b""
    return found.rpartition(b"\n")[2]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def hold(path):
    """The file, open and locked against other servers until it is closed; ValueError where one has it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(
            f"{path} is in use by another labelling page; end that one, or give other --labels"
        ) from None
    if not os.fstat(file.fileno()).st_nlink:  # the one who had it removed it, as nothing was in it
        file.close()
        return hold(path)
    return file


def release(file, path):
    """Lets go of what `hold` gave; a file in which nothing stands is removed."""
    if not os.fstat(file.fileno()).st_size:
        Path(path).unlink(missing_ok=True)
    file.close()
