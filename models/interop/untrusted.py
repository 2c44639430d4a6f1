"""JSON from anywhere: bounded in bytes and depth before anything reads it."""

import json
from pathlib import Path

BYTES = 4 * 2**20
DEPTH = 64
CONTAINERS = 200_000  # lists and objects; an empty one takes twenty times its two bytes


def read_json(path, limit: int = BYTES) -> dict:
    """A JSON object from a file of at most `limit` bytes. ValueError names file and fault."""
    path = Path(path)
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"{path} has {size:,} bytes; at most {limit:,} are read")
    return parse(path.read_bytes(), path)


def parse(text: bytes, path) -> dict:
    """The JSON object in `text`, which comes from the file `path`: UTF-8, no key twice, at most
    DEPTH values inside each other and CONTAINERS of them. ValueError names file and fault.
    """
    if text.count(b"[") + text.count(b"{") > CONTAINERS:
        raise ValueError(f"{path} holds more than {CONTAINERS:,} lists and objects")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        deep = _deeper(value, DEPTH)
    except RecursionError:
        deep = True
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error!s:.200}") from None
    if deep:
        raise ValueError(f"{path} is not read: its JSON is nested more than {DEPTH} deep")
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def _deeper(value, depth: int) -> bool:
    """Whether anything lies more than `depth` levels down."""
    level = [value]
    for _ in range(depth):
        inside = []
        for item in level:
            if isinstance(item, dict):
                inside += [x for x in item.values() if isinstance(x, (dict, list))]
            elif isinstance(item, list):
                inside += [x for x in item if isinstance(x, (dict, list))]
        if not inside:
            return False
        level = inside
    return True


def _unique(pairs):
    value = dict(pairs)
    if len(value) != len(pairs):
        seen = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {twice!r:.80} occurs twice")
    return value
