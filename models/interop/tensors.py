"""Reading and writing safetensors files: a JSON header and raw bytes, nothing that can run code.

The header is untrusted: its size, the number of tensors, every dtype, shape and offset are checked
before a byte of data is touched (300,000 empty tensors in a valid 19 MB header cost the reference
reader 5 s and 600 MB), offsets must tile the data exactly, and tensor names are never used as
paths. Data is memory-mapped and converted tensor by tensor.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from models.interop.untrusted import parse, read_json

HEADER_BYTES = 8 * 2**20
TENSORS = 20_000
SHARDS = 1_000
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


class Tensors(Mapping):
    """The tensors of one folder by name: `tensors[name]` reads one, `shape(name)` only its header.

    Built by `open_folder`. Floating tensors come as they are stored; the caller converts.
    """

    def __init__(self, entries: dict):
        self._entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        path, start, dtype, shape = self._entries[name]
        if math.prod(shape) == 0:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", offset=start, shape=shape or (1,)).reshape(shape)

    def __iter__(self) -> Iterator:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple:
        return self._entries[name][3]


def open_folder(folder: Path) -> Tensors:
    """The tensors of `model.safetensors`, or else of the shards that its index names, in the order in
    which the reference looks for them: an index beside a whole file is what an older save left.

    Raises FileNotFoundError where there are no weights, ValueError for anything malformed and, with
    a hint, for formats that run code when they are read.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return Tensors(_header(single))
    if index.is_file():
        return _open_shards(folder, index)
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(found) == 1:
        return Tensors(_header(folder / found[0]))
    if found:
        raise ValueError(
            f"{folder} holds {len(found)} safetensors files and no model.safetensors.index.json"
        )
    unsafe = sorted(
        p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    if unsafe:
        raise ValueError(
            f"{folder / unsafe[0]} is a torch file, which can run code when read; it is refused. "
            "Convert it to safetensors with the library that wrote it."
        )
    raise FileNotFoundError(f"{folder} holds no model.safetensors")


def _open_shards(folder: Path, index: Path) -> Tensors:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise ValueError(f"{index} has no weight_map of tensor names to file names")
    files = sorted(set(where.values()))
    if len(files) > SHARDS:
        raise ValueError(f"{index} names {len(files):,} files; at most {SHARDS:,} are read")
    entries = {}
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{index} names {file!r:.80}; expected a safetensors file beside it")
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{index} names {file}, which is not in {folder}")
        shard = _header(folder / file)
        wrong = next((name for name in shard if where.get(name) != file), None)
        if wrong is not None:
            raise ValueError(
                f"{folder / file} holds {wrong!r:.80}, which {index.name} does not place there"
            )
        entries.update(shard)
        if len(entries) > TENSORS:
            raise ValueError(f"{folder} holds more than {TENSORS:,} tensors")
    missing = next((name for name in where if name not in entries), None)
    if missing is not None:
        raise ValueError(f"{index} places {missing!r:.80} in {where[missing]}, which lacks it")
    return Tensors(entries)


def _header(path: Path) -> dict:
    """{name: (path, byte offset in the file, dtype, shape)} of one safetensors file, checked."""
    total = path.stat().st_size
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if total < 8 or size > min(HEADER_BYTES, total - 8):
            raise ValueError(
                f"{path} states a header of {size:,} bytes; the file has {total:,} and at most "
                f"{HEADER_BYTES:,} are read"
            )
        text = file.read(size)
    if text.count(b'"dtype"') > TENSORS:  # parsed, they would take a hundred times the memory
        raise ValueError(f"{path} holds more than {TENSORS:,} tensors")
    header = parse(text, f"the safetensors header of {path}")
    header.pop("__metadata__", None)
    if len(header) > TENSORS:
        raise ValueError(f"{path} holds more than {TENSORS:,} tensors")
    entries, spans = {}, []
    for name, entry in header.items():
        dtype, shape, start, end = _entry(path, name, entry)
        spans.append((start, end, name))
        entries[name] = (path, 8 + size + start, dtype, shape)
    at = 0
    for start, end, name in sorted(spans):
        if start != at:
            fault = "overlaps another tensor" if start < at else "leaves a gap before it"
            raise ValueError(f"{path}: {name!r:.80} {fault} (bytes {start}-{end}, expected {at})")
        at = end
    if at != total - 8 - size:
        raise ValueError(
            f"{path} has {total - 8 - size:,} bytes of data; its header describes {at:,} "
            "(truncated or altered)"
        )
    return entries


def _entry(path, name, entry):
    try:
        dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        numbers = [*shape, start, end]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: {name!r:.80} has an unreadable header entry: {entry!r:.120}"
        ) from None
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise ValueError(
            f"{path}: {name!r:.80} has the impossible shape or offsets {numbers!r:.120}"
        )
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{path}: {name!r:.80} of shape {tuple(shape)} and type {entry['dtype']} cannot lie in "
            f"{end - start} bytes"
        )
    return dtype, tuple(shape), start, end


def write(path: Path, tensors: Mapping) -> None:
    """Writes float32 arrays as one safetensors file, in order of name, through a temporary file.

    Integers are written as int64, before the others, so that everything is aligned.
    """
    header, at = {"__metadata__": {"format": "pt"}}, 0
    whole = {name: tensors[name].dtype.kind in "iu" for name in tensors}
    order = sorted(tensors, key=lambda name: (not whole[name], name))
    for name in order:
        shape, kind = list(tensors[name].shape), "I64" if whole[name] else "F32"
        size = DTYPES[kind].itemsize * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            kind = "<i8" if whole[name] else "<f4"
            file.write(np.ascontiguousarray(tensors[name], kind).tobytes())
    part.replace(path)
