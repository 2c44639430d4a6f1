"""torch's files from before its zip format, read without torch and without running them.

Such a file is five pickles (a magic number, a version, facts of the machine, the object, the keys of its
storages; see `models.interop.pickles`) and then, for each storage, its length as int64 and its bytes.
Lengths are checked against the file before anything is made of them, tensors must fill a part of their
storage (in any order of their axes), and no two parts may overlap.
"""

import math
from pathlib import Path

import numpy as np

from models.interop.pickles import File, Tensor, run

ENTRIES, DEPTH = 20_000, 16  # of dictionaries
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def read(path) -> dict:
    """{name: array} of a legacy torch file, nested where its dictionaries are.

    Raises ValueError naming the file, what was met and where: a function or an operation that tensors
    do not need, values that are neither tensors nor dictionaries, lengths that the file does not have.
    """
    file = File(Path(path))
    if file.data[:2].tobytes() == b"PK":
        file.fail("this is torch's newer zip format; only files from before torch 1.6 are read")
    if run(file) != _MAGIC or run(file) != _VERSION:
        file.fail("this is no legacy torch file: its magic number or version differs")
    system = run(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        file.fail("the file was written on a machine that is not little-endian")
    tree, keys = run(file), run(file)
    found = {}
    flat = _flatten(file, tree)
    for name, (storage, offset, shape, _) in flat.items():
        found.setdefault(storage, []).append((offset, offset + math.prod(shape), name))
    return _fill(tree, _data(file, keys, found))


def _flatten(file, tree) -> dict:
    """{name: tensor} of all tensors below a dictionary. Dictionaries that are met twice count twice."""
    found, left, met = {}, [("", tree, 0)], 0
    while left:
        name, value, depth = left.pop()
        met += 1
        if met > ENTRIES or depth > DEPTH:
            file.fail(f"there are more than {ENTRIES:,} entries, or {DEPTH} in each other")
        if isinstance(value, Tensor):
            found[name] = value
        elif not isinstance(value, dict):
            what = repr(name[:80]) if name else "the object"
            file.fail(f"{what} is a {type(value).__name__}; expected tensors and dictionaries")
        else:
            for key, item in value.items():
                if not isinstance(key, str):
                    file.fail(f"a dictionary has the key {key!r:.60}; expected a string")
                left.append((f"{name}.{key}" if name else key, item, depth + 1))
    return found


def _data(file, keys, found) -> dict:
    """{storage: array}, after a look at every length."""
    known = {storage[0]: storage for storage in found}
    strings = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not strings or sorted(keys) != sorted(known) or len(known) != len(found):
        file.fail("the list of storages is not that of the tensors")
    for spans in found.values():
        spans.sort()
        for (_, end, first), (start, _, second) in zip(spans, spans[1:], strict=False):
            if start < end:
                file.fail(f"{first!r:.80} and {second!r:.80} overlap in one storage")
    arrays = {}
    for key in keys:
        _, dtype, count = known[key]
        if file.number("<q") != count:
            file.fail(f"the storage {key!r:.40} has another length than its tensors say")
        arrays[known[key]] = np.frombuffer(file.take(count * dtype.itemsize), dtype)
    if file.at != len(file.data):
        file.fail(f"{len(file.data) - file.at:,} bytes follow the last storage")
    return arrays


def _fill(tree, arrays):
    whole = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            whole[key] = _fill(value, arrays)
            continue
        storage, offset, shape, order = value
        part = arrays[storage][offset : offset + math.prod(shape)]
        part = part.reshape([shape[axis] for axis in order])
        whole[key] = part.transpose([order.index(axis) for axis in range(len(order))])
    return whole
