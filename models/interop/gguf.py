"""GGUF files (versions 2 and 3) of LLaMA models, as llama.cpp writes them.

The file is memory-mapped; every count, length and offset in it is checked against a limit and the
file's size before it is used. Queries and keys are stored with rotary pairs interleaved and are
turned back to the half-split order that `models.positions.rotate` wants.
"""

import math
import struct
from pathlib import Path

import numpy as np

from models.interop import ggml_tokenizer, quants
from models.interop.names import GGUF
from models.interop.rename import lines, nest
from models.options import Options
from models.positions import frequencies

FIELDS, TENSORS, STRING = 4_096, 20_000, 2**24
ITEMS = 2_000_000  # in all arrays together: a vocabulary of 256,000, its scores, types and merges
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
            11: "<q", 12: "<d"}  # fmt: skip
_STRING, _ARRAY = 8, 9


class Reader:
    """The header of one file: `fields` {key: value}; `tensor(name)` reads one as float32."""

    def __init__(self, path: Path):
        self.path = path
        if path.stat().st_size < 24:
            raise ValueError(f"{path} is too short to be a GGUF file")
        self._data = np.asarray(np.memmap(path, np.uint8, "r"))
        self._bytes = memoryview(self._data)
        self._at = self._items = 0
        magic, version = bytes(self._take(4)), self._scalar(4)
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path} is not a GGUF file of version 2 or 3")
        tensors, fields = self._scalar(10), self._scalar(10)
        if fields > FIELDS or tensors > TENSORS:
            raise ValueError(
                f"{path} states {fields:,} fields and {tensors:,} tensors; at most {FIELDS:,} and "
                f"{TENSORS:,} are read"
            )
        self.fields = {}
        for _ in range(fields):
            key = self._string()
            self.fields[key] = self._value(self._scalar(4))
        entries = [self._entry() for _ in range(tensors)]
        align = self.fields.get("general.alignment", 32)
        if type(align) is not int or not 1 <= align <= 2**20:
            raise ValueError(f"{path}: general.alignment is {align!r:.80}")
        start = -(-self._at // align) * align
        self._entries = {name: self._place(name, start, *rest) for name, *rest in entries}
        if len(self._entries) != tensors:
            raise ValueError(f"{path} names a tensor twice")

    def _fail(self, what):
        raise ValueError(f"{self.path} is damaged near byte {self._at:,}: {what}")

    def _take(self, count):
        if count > len(self._data) - self._at:
            self._fail(f"{count:,} bytes are expected and the file ends")
        self._at += count
        return self._bytes[self._at - count : self._at]

    def _scalar(self, kind):
        form = _SCALARS[kind]
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _string(self):
        size = self._scalar(10)
        if size > STRING:
            self._fail(f"a string of {size:,} bytes")
        return bytes(self._take(size)).decode("utf-8", "replace")

    def _strings(self, count):
        """`count` strings; the reading of a vocabulary, and therefore without calls."""
        found, at, end, data = [], self._at, len(self._data), self._bytes
        size_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            (size,) = size_at(data, at) if at + 8 <= end else (end,)
            at += 8
            if size > STRING or size > end - at:
                self._fail(f"a string of {size:,} bytes")
            found.append(str(data[at : at + size], "utf-8", "replace") if size else "")
            at += size
        self._at = at
        return found

    def _value(self, kind):
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._scalar(kind)
        if kind != _ARRAY:
            self._fail(f"a value of the unknown type {kind}")
        item, count = self._scalar(4), self._scalar(10)
        self._items += count
        if self._items > ITEMS or (item != _STRING and item not in _SCALARS):
            self._fail(f"an array of {count:,} values of type {item}")
        if item == _STRING:
            return self._strings(count)
        dtype = np.dtype(_SCALARS[item])
        return np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()

    def _entry(self):
        name, axes = self._string(), self._scalar(4)
        if axes > 4:
            self._fail(f"{name!r:.80} has {axes} axes")
        shape = tuple(self._scalar(10) for _ in range(axes))[::-1]
        return name, shape, self._scalar(4), self._scalar(10)

    def _place(self, name, start, shape, kind, offset):
        try:
            size = quants.size(kind, math.prod(shape))
        except ValueError as error:
            raise ValueError(f"{self.path}: {name!r:.80}: {error}") from None
        if start + offset + size > len(self._data):
            raise ValueError(
                f"{self.path}: {name!r:.80} lies beyond the end of the file (truncated?)"
            )
        return shape, kind, start + offset, size

    def __contains__(self, name):
        return name in self._entries

    def __iter__(self):
        return iter(self._entries)

    def shape(self, name) -> tuple:
        return self._entries[name][0]

    def tensor(self, name) -> np.ndarray:
        shape, kind, at, size = self._entries[name]
        return quants.dequantise(self._data[at : at + size], kind).reshape(shape)


def options(file: Reader) -> Options:
    """Options from the file's fields. ValueError names a field that is missing or unsupported."""
    if file.fields.get("general.architecture") != "llama":
        found = file.fields.get("general.architecture")
        raise ValueError(
            f"{file.path}: general.architecture is {found!r:.80}; only llama is supported"
        )
    if file.fields.get("llama.expert_count"):
        raise ValueError(f"{file.path}: llama.expert_count: experts in GGUF are not supported")

    def get(key, kind=int, default=None):
        value = file.fields.get(f"llama.{key}", default)
        if type(value) is not kind:
            raise ValueError(f"{file.path}: llama.{key} is {value!r:.60}; expected {kind.__name__}")
        return value

    width, heads, layers = (
        get(f"{k}") for k in ("embedding_length", "attention.head_count", "block_count")
    )
    if not 1 <= heads <= width or not 1 <= layers <= TENSORS:
        raise ValueError(f"{file.path}: {heads} heads, {layers} layers and width {width} cannot be")
    size = get("attention.key_length", int, width // heads)
    if get("rope.dimension_count", int, size) != size:
        raise ValueError(
            f"{file.path}: llama.rope.dimension_count differs from the head size {size}"
        )
    scaling = get("rope.scaling.type", str, "none")
    if scaling not in ("none", "linear"):
        raise ValueError(f"{file.path}: llama.rope.scaling.type {scaling!r:.80} is not supported")
    vocab = file.shape("token_embd.weight")[0] if "token_embd.weight" in file else 0
    o = Options(
        family="llama", vocab=vocab, context=get("context_length"), layers=layers, width=width,
        heads=heads, kv_heads=get("attention.head_count_kv", int, heads),
        ff=get("feed_forward_length"), head_size=0 if size * heads == width else size,
        norm="rms", act="silu", gated=True,
        norm_eps=_decimal(get("attention.layer_norm_rms_epsilon", float)), positions="rotary",
        rope_theta=_decimal(get("rope.freq_base", float, 10000.0)), rope_scaling=scaling,
        rope_factor=_decimal(get("rope.scaling.factor", float, 1.0)),
        q_bias=False, k_bias=False, v_bias=False, o_bias=False, mlp_bias=False,
        tied="output.weight" not in file,
    )  # fmt: skip
    return _scaled(file, o) if "rope_freqs.weight" in file else o


def _decimal(value: float) -> float:
    """The shortest decimal that is the same float32: 9.99999974e-06 was written as 1e-05."""
    return float(str(np.float32(value)))


def _scaled(file, o):
    """LLaMA 3's frequency scaling, which the file stores as one divisor per frequency."""
    found = file.tensor("rope_freqs.weight").reshape(-1)
    for factor in (8.0, 32.0):
        new = o.replace(rope_scaling="llama3", rope_factor=factor)
        divisors = frequencies(o) / frequencies(new)
        if found.shape == divisors.shape and np.allclose(found, divisors, rtol=1e-4):
            return new
    raise ValueError(f"{file.path}: rope_freqs.weight is not LLaMA 3.1's or 3.2's scaling")


def load(path: Path) -> tuple:
    """(options, variables, tokenizer, special ids, chat template, fields) of a GGUF file."""
    file = Reader(path)
    o = options(file)
    if o.layers > max(1000, len(list(file))):
        raise ValueError(f"{path} says it has {o.layers:,} layers, and holds fewer tensors")
    flat, used = {}, {"rope_freqs.weight"}
    for line in lines(GGUF, o):
        (name,) = line.theirs
        if name not in file:
            raise ValueError(f"{path} lacks the tensor {name!r:.80}")
        if file.shape(name) != line.shape:
            raise ValueError(f"{path}: {name!r:.80} has shape {file.shape(name)}, not {line.shape}")
        array = file.tensor(name)
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = array.reshape(-1, o.size // 2, 2, o.width)
            array = heads.swapaxes(1, 2).reshape(array.shape)
        flat.update(zip(line.ours, line.load([array]), strict=True))
        used.add(name)
    left = sorted(set(file) - used)
    if left:
        raise ValueError(f"{path} holds {left[0]!r:.80}, which a llama lacks")
    tokenizer = ggml_tokenizer.build(file.fields)
    special = ggml_tokenizer.special(file.fields, o.vocab)
    template = file.fields.get("tokenizer.chat_template", "")
    template = template if isinstance(template, str) else ""
    fields = {k: v for k, v in file.fields.items() if not isinstance(v, list)}
    return o, {"params": nest(flat)}, tokenizer, special, template, fields
