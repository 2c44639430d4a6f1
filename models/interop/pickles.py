"""Pickles of dictionaries of tensors, stepped through without the module that runs them.

Pickles are programs, and one that names `os.system` runs it. This machine knows the few operations that
dictionaries of tensors need, and no function but those that build them; whatever else it meets is an
error that names it. Nothing is made that is larger than the program that makes it, and as a few bytes
can name one tuple many times over, no tuple is hashed, compared or shown before its parts are known.
"""

import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

FILE_BYTES = 8 * 2**30
PROGRAM_BYTES = 4 * 2**20  # of all of a file's programs
_STORAGES = {
    "FloatStorage": np.dtype("<f4"), "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"), "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"), "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"), "BoolStorage": np.dtype("?"),
}  # fmt: skip
_DICT, _TENSOR = ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")
_MARK = object()


class Global(tuple):
    """(module, name) of one of the few functions and classes that are known."""


class Storage(tuple):
    """(key, dtype, number of elements)."""


class Tensor(tuple):
    """(storage, offset, shape, axes from the slowest to the fastest), in elements."""


class File:
    """The file, of which no more is taken than there is."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise ValueError(f"{path} has {size:,} bytes; at most {FILE_BYTES:,} are read")
        self.data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        self.view = memoryview(self.data)  # whose parts cost less than an array's

    def fail(self, what):
        raise ValueError(f"{self.path}: {what} (at byte {self.at:,})")

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.view) - self.at:
            self.fail(f"the file ends before {count:,} more bytes; it is truncated or altered")
        self.at += count
        return bytes(self.view[self.at - count : self.at])

    def line(self) -> str:
        """Up to the next newline, at most 200 bytes."""
        end = bytes(self.view[self.at : self.at + 200]).find(b"\n")
        if end < 0:
            self.fail("a name of a function has more than 200 bytes")
        return self.take(end + 1)[:-1].decode("ascii", "replace")

    def number(self, form: str):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]


def run(file: File):
    """The object that one of the pickles makes of dictionaries, lists, tuples, strings, numbers and tensors.

    Raises ValueError naming the file, the operation or function, and where it stands.
    """
    stack, memo = [], {}
    while True:
        if file.at > PROGRAM_BYTES:
            file.fail(f"its pickles have more than {PROGRAM_BYTES:,} bytes")
        code = file.take(1)
        if code == b".":
            if len(stack) != 1:
                file.fail("one of its pickles ends with more or less than one object")
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
        file.fail(f"pickles of protocol {number}; legacy files have protocol 2")


def _global(file, stack, memo):
    name = file.line(), file.line()
    if name not in (_DICT, _TENSOR) and not (name[0] == "torch" and name[1] in _STORAGES):
        file.fail(f"the file would call {name[0]}.{name[1]}, which is not read")
    stack.append(Global(name))


def _tuple(count):
    def step(file, stack, memo):
        items = _since(stack) if count is None else [stack.pop() for _ in range(count)][::-1]
        stack.append(tuple(items))

    return step


def _setitems(file, stack, memo):
    items = _since(stack)
    if len(items) % 2:
        raise TypeError
    stack[-1].update(zip([_key(file, k) for k in items[::2]], items[1::2], strict=True))


def _setitem(file, stack, memo):
    value, key = stack.pop(), stack.pop()
    stack[-1].update({_key(file, key): value})


def _key(file, key):
    if type(key) not in (str, int):
        file.fail(f"a dictionary has a {type(key).__name__} as a key; expected a string")
    return key


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
    if kind != "storage" or not isinstance(made, Global) or made[0] != "torch" or view is not None:
        file.fail("a storage is described in a way that is not read")
    if type(count) is not int or not 0 <= count < 2**48 or not isinstance(key, str):
        file.fail("a storage has an impossible number of elements, or a name that is no string")
    stack.append(Storage((key, _STORAGES[made[1]], count)))


def _reduce(file, stack, memo):
    given, made = stack.pop(), stack.pop()
    if not isinstance(given, tuple) or not isinstance(made, Global):
        raise TypeError
    if made == _DICT and given == ():
        stack.append({})
        return
    if made != _TENSOR or len(given) < 4:
        name = ".".join(made)
        file.fail(f"the file calls {name} with {len(given)} arguments, which is not read")
    storage, offset, shape, strides, *_ = given
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        file.fail("a tensor is described in a way that is not read")
    if len(shape) != len(strides) or len(shape) > 8:
        file.fail(f"a tensor has {len(shape)} axes and {len(strides)} strides; at most 8 are read")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in (offset, *shape, *strides)):
        file.fail("a tensor has an impossible offset, shape or strides")
    if offset + math.prod(shape) > storage[2]:
        file.fail(f"a tensor of shape {shape} lies beyond its storage of {storage[2]:,} elements")
    order = sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis))
    step = 1
    for axis in reversed(order):
        if shape[axis] > 1 and strides[axis] != step:
            file.fail(
                f"a tensor of shape {shape} with the strides {strides} leaves gaps or overlaps"
            )
        step *= shape[axis]
    stack.append(Tensor((storage, offset, shape, tuple(order))))


_STEPS = {
    b"\x80": _protocol, b"\x8a": _long, b"K": _push("<B"), b"M": _push("<H"), b"J": _push("<i"),
    b"G": _push(">d"), b"X": _text, b"N": _make(lambda: None), b"\x88": _make(lambda: True),
    b"\x89": _make(lambda: False), b"}": _make(dict), b"]": _make(list), b")": _make(tuple),
    b"(": _make(lambda: _MARK), b"t": _tuple(None), b"\x85": _tuple(1), b"\x86": _tuple(2),
    b"\x87": _tuple(3), b"q": _put("<B"), b"r": _put("<I"), b"h": _get("<B"), b"j": _get("<I"),
    b"c": _global, b"R": _reduce, b"Q": _storage, b"s": _setitem, b"u": _setitems, b"a": _append,
    b"e": _appends, b"b": _build,
}  # fmt: skip
