"""Records of pictures: ArrayRecord files whose records are `tf.train.Example` messages.

TensorFlow Datasets writes such files; they are read here by the wire format of protocol buffers
(varints and length-delimited fields), without TensorFlow. `write` makes them.
"""

import struct
from pathlib import Path

import numpy as np


def example(raw: bytes) -> dict:
    """{name: list of bytes, ints or floats} of a serialised `tf.train.Example`; ValueError."""
    found = {}
    try:
        for number, features in _fields(raw):
            if number != 1:
                continue
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                found[bytes(parts[1]).decode()] = _feature(parts.get(2, b""))
    except (IndexError, KeyError, UnicodeDecodeError, struct.error, TypeError) as error:
        raise ValueError(f"not a tf.train.Example ({type(error).__name__})") from None
    return found


def _feature(raw) -> list:
    for kind, inner in _fields(raw):
        if kind == 1:
            return [bytes(value) for _, value in _fields(inner)]
        if kind == 2:
            parts = [bytes(v) if isinstance(v, memoryview) else v for _, v in _fields(inner)]
            joined = b"".join(p if isinstance(p, bytes) else struct.pack("<I", p) for p in parts)
            return np.frombuffer(joined, "<f4").tolist()
        if kind == 3:
            values = []
            for _, value in _fields(inner):
                values += _varints(value) if isinstance(value, memoryview) else [value]
            return [v - (1 << 64) if v >> 63 else v for v in values]
    return []


def _fields(raw):
    """(field number, value) pairs: memoryviews of length-delimited fields, ints of the others."""
    raw, at = memoryview(raw), 0
    while at < len(raw):
        key, at = _varint(raw, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(raw, at)
        elif wire == 2:
            size, at = _varint(raw, at)
            value, at = raw[at : at + size], at + size
            if at > len(raw):
                raise IndexError
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value = int.from_bytes(raw[at : at + size], "little")
            at += size
        else:
            raise KeyError(wire)
        yield key >> 3, value


def _varint(raw, at):
    value = shift = 0
    while shift < 70:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise IndexError("a number of more than ten bytes")


def _varints(raw) -> list:
    values, at = [], 0
    while at < len(raw):
        value, at = _varint(raw, at)
        values.append(value)
    return values


def serialise(features: dict) -> bytes:
    """A `tf.train.Example` of {name: bytes, or a list of ints}."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _block(1, _block(1, value))
        else:
            feature = _block(3, _block(1, b"".join(_packed(v % (1 << 64)) for v in value)))
        entries += _block(1, _block(1, name.encode()) + _block(2, feature))
    return _block(1, entries)


def _packed(value: int) -> bytes:
    made = bytearray()
    while True:
        made.append((value & 127) | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(made)


def _block(number, raw: bytes) -> bytes:
    return _packed(number << 3 | 2) + _packed(len(raw)) + raw


def reader():
    """The module that reads ArrayRecord files; ValueError where it is missing."""
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise ValueError(
            "ArrayRecord files need the package array_record, which is missing: "
            "pip install array_record"
        ) from error
    return array_record_module


def write(path, examples) -> int:
    """Writes {name: bytes or ints} examples, one record each; returns how many there were."""
    writer = reader().ArrayRecordWriter(str(path), "group_size:1")
    count = 0
    for item in examples:
        writer.write(serialise(item))
        count += 1
    writer.close()
    return count


class File:
    """The records of one file by number; opened where it is first read, so it can be sent around."""

    def __init__(self, path):
        self.path, self._open = Path(path), None
        self.count = self._file().num_records()

    def __getstate__(self):
        return {"path": self.path, "count": self.count, "_open": None}

    def _file(self):
        """The open reader; of a file without its last part it would count 0 records and be not ok."""
        if self._open is None:
            reason = "it is truncated or damaged, or was never closed"
            try:
                opened = reader().ArrayRecordReader(str(self.path))
                if opened.ok():
                    self._open = opened
            except RuntimeError as error:
                reason = str(error)
            if self._open is None:
                raise ValueError(f"{self.path} is not a readable ArrayRecord file: {reason}")
        return self._open

    def __getitem__(self, number: int) -> dict:
        try:
            return example(self._file().read([int(number)])[0])
        except (RuntimeError, IndexError, ValueError) as error:
            reason = str(error)[:200]
            raise ValueError(f"{self.path}, record {number} is not read: {reason}") from None
