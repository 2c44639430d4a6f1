"""torch's files from before its zip format, read without torch and without `pickle`.

Such a file is five pickles (a magic number, a version, facts of the machine, the object, the keys of its
storages) and then, for each storage, its length as int64 and its bytes. A pickle is a program, and one
that names `os.system` runs it. This module steps through the few operations that dictionaries of tensors
need and knows no function but those that build them; whatever else it meets is an error that names it.
Lengths are checked against the file before anything is made of them, tensors must fill a part of their
storage (in any order of their axes), and no two parts may overlap.
"""

import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

FILE_BYTES = 8 * 2**30
PROGRAM_BYTES = 16 * 2**20  # of all pickles together
ENTRIES, DEPTH = 20_000, 16  # of dictionaries
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "FloatStorage": np.dtype("<f4"), "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"), "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"), "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"), "BoolStorage": np.dtype("?"),
}  # fmt: skip
_DICT, _TENSOR = ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")
_MARK = object()


class _Global(tuple):
    """(module, name) of one of the few functions and classes that are known."""


class _Storage(tuple):
    """(key, dtype, number of elements)."""


class _Tensor(tuple):
    """(storage, offset, shape, axes from the slowest to the fastest), in elements."""


class _Bytes:
    """The file, of which no more is taken than there is."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise ValueError(f"{path} has {size:,} bytes; at most {FILE_BYTES:,} are read")
        self.data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)

    def fail(self, what):
        raise ValueError(f"{self.path}: {what} (at byte {self.at:,})")

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            self.fail(f"the file ends before {count:,} more bytes; it is truncated or altered")
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def line(self) -> str:
        """Up to the next newline, at most 200 bytes."""
        end = self.data[self.at : self.at + 200].tobytes().find(b"\n")
        if end < 0:
            self.fail("a name of a function has more than 200 bytes")
        return self.take(end + 1)[:-1].decode("ascii", "replace")

    def number(self, form: str):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]


def read(path) -> dict:
    """{name: array} of a legacy torch file, nested where its dictionaries are.

    Raises ValueError naming the file, what was met and where: a function or an operation that tensors
    do not need, values that are neither tensors nor dictionaries, lengths that the file does not have.
    """
    file = _Bytes(Path(path))
    if file.data[:2].tobytes() == b"PK":
        file.fail("this is torch's newer zip format; only files from before torch 1.6 are read")
    if _program(file) != _MAGIC or _program(file) != _VERSION:
        file.fail("this is no legacy torch file: its magic number or version differs")
    system = _program(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        file.fail("the file was written on a machine that is not little-endian")
    tree, keys = _program(file), _program(file)
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
        if isinstance(value, _Tensor):
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


def _program(file: _Bytes):
    """The object that one pickle makes."""
    stack, memo, first = [], {}, file.at
    while True:
        if file.at - first > PROGRAM_BYTES:
            file.fail(f"a pickle has more than {PROGRAM_BYTES:,} bytes")
        code = file.take(1)
        if code == b".":
            if len(stack) != 1:
                file.fail("a pickle ends with more or less than one object")
            return stack[0]
        if code not in _STEPS:
            file.fail(f"the operation {code!r} is not one that dictionaries of tensors need")
        try:
            _STEPS[code](file, stack, memo)
        except (IndexError, KeyError, TypeError, AttributeError):
            file.fail(f"the operation {code!r} does not fit what is on the stack")


def _since(stack) -> list:
    """What lies above the last mark, which goes with it."""
    for i in range(len(stack) - 1, -1, -1):
        if stack[i] is _MARK:
            items = stack[i + 1 :]
            del stack[i:]
            return items
    raise IndexError


def _put(form):
    def step(file, stack, memo):
        memo[file.number(form)] = stack[-1]

    return step


def _get(form):
    return lambda file, stack, memo: stack.append(memo[file.number(form)])


def _push(form):
    return lambda file, stack, memo: stack.append(file.number(form))


def _make(make):
    return lambda file, stack, memo: stack.append(make())


def _text(file, stack, memo):
    size = file.number("<I")
    if size > 2000:
        file.fail(f"a string of {size:,} bytes; names have at most 2,000")
    stack.append(file.take(size).decode("utf-8", "replace"))


def _long(file, stack, memo):
    stack.append(int.from_bytes(file.take(file.number("<B")), "little", signed=True))


def _protocol(file, stack, memo):
    if (number := file.number("<B")) != 2:
        file.fail(f"a pickle of protocol {number}; legacy files have protocol 2")


def _global(file, stack, memo):
    name = file.line(), file.line()
    if name not in (_DICT, _TENSOR) and not (name[0] == "torch" and name[1] in _STORAGES):
        file.fail(f"the file would call {name[0]}.{name[1]}, which is not read")
    stack.append(_Global(name))


def _tuple(count):
    def step(file, stack, memo):
        items = _since(stack) if count is None else [stack.pop() for _ in range(count)][::-1]
        stack.append(tuple(items))

    return step


def _setitems(file, stack, memo):
    items = _since(stack)
    if len(items) % 2:
        raise TypeError
    stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _setitem(file, stack, memo):
    value, key = stack.pop(), stack.pop()
    stack[-1].update({key: value})


def _append(file, stack, memo):
    value = stack.pop()
    stack[-1].append(value)


def _appends(file, stack, memo):
    items = _since(stack)
    stack[-1].extend(items)


def _build(file, stack, memo):
    """Attributes of a dictionary (torch keeps versions there), which are left out."""
    stack.pop()
    if not isinstance(stack[-1], dict):
        raise TypeError


def _storage(file, stack, memo):
    given = stack.pop()
    if not isinstance(given, tuple) or len(given) != 6:
        raise TypeError
    kind, made, key, _, count, view = given
    if kind != "storage" or not isinstance(made, _Global) or made[0] != "torch" or view is not None:
        file.fail("a storage is described in a way that is not read")
    if type(count) is not int or not 0 <= count < 2**48 or not isinstance(key, str):
        file.fail(f"a storage of {count!r:.40} elements is impossible")
    stack.append(_Storage((key, _STORAGES[made[1]], count)))


def _reduce(file, stack, memo):
    given, made = stack.pop(), stack.pop()
    if not isinstance(given, tuple) or not isinstance(made, _Global):
        raise TypeError
    if made == _DICT and given == ():
        stack.append({})
        return
    if made != _TENSOR or len(given) < 4:
        file.fail(f"the file calls {made!r:.80} with {len(given)} arguments, which is not read")
    storage, offset, shape, strides, *_ = given
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > 8:
        file.fail("a tensor is described in a way that is not read")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in numbers):
        file.fail(f"a tensor has the impossible shape or strides {numbers!r:.80}")
    if offset + math.prod(shape) > storage[2]:
        file.fail(f"a tensor of shape {shape} lies beyond its storage of {storage[2]:,} elements")
    order = sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis))
    step = 1
    for axis in reversed(order):
        if shape[axis] > 1 and strides[axis] != step:
            file.fail(f"a tensor of shape {shape} with the strides {strides} leaves gaps or overlaps")
        step *= shape[axis]
    stack.append(_Tensor((storage, offset, shape, tuple(order))))


_STEPS = {
    b"\x80": _protocol, b"\x8a": _long, b"K": _push("<B"), b"M": _push("<H"), b"J": _push("<i"),
    b"G": _push(">d"), b"X": _text, b"N": _make(lambda: None), b"\x88": _make(lambda: True),
    b"\x89": _make(lambda: False), b"}": _make(dict), b"]": _make(list), b")": _make(tuple),
    b"(": _make(lambda: _MARK), b"t": _tuple(None), b"\x85": _tuple(1), b"\x86": _tuple(2),
    b"\x87": _tuple(3), b"q": _put("<B"), b"r": _put("<I"), b"h": _get("<B"), b"j": _get("<I"),
    b"c": _global, b"R": _reduce, b"Q": _storage, b"s": _setitem, b"u": _setitems, b"a": _append,
    b"e": _appends, b"b": _build,
}  # fmt: skip
