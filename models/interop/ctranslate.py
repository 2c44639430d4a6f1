"""Whisper in CTranslate2's binary form (model.bin, versions 5 and 6), under the reference's names.

A file is a version, the name of a specification, and tensors one after the other, each with its
name, shape, type and bytes; then names that stand for another tensor. Projections of queries, keys
and values are stored as one matrix. Every count and length is checked before it is used.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TENSORS, RANK = 20_000, 4
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_NORM = {"gamma": "weight", "beta": "bias"}


class Reader(Mapping):
    """{their name: array} of one model.bin; arrays are views of the file until they are cast."""

    def __init__(self, path: Path):
        self.path, self._at = path, 0
        self._data = (
            np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        )
        version = self._scalar("I")
        if version not in (5, 6):
            raise ValueError(f"{path} is not a model.bin of CTranslate2, version 5 or 6")
        self.spec, self.revision, count = self._string(), self._scalar("I"), self._scalar("I")
        if count > TENSORS:
            raise ValueError(f"{path} states {count:,} tensors; at most {TENSORS:,} are read")
        self._found = {}
        for _ in range(count):
            name, array = self._string(), self._array()
            if name in self._found:
                raise ValueError(f"{path} names the tensor {name!r:.80} twice")
            self._found[name] = array
        for _ in range(self._scalar("I")):
            alias, name = self._string(), self._string()
            if name not in self._found:
                raise ValueError(
                    f"{path}: {alias!r:.80} stands for {name!r:.80}, which is not there"
                )
            self._found[alias] = self._found[name]

    def __getitem__(self, name):
        return self._found[name]

    def __iter__(self):
        return iter(self._found)

    def __len__(self):
        return len(self._found)

    def _take(self, size):
        if size > len(self._data) - self._at:
            raise ValueError(f"{self.path} is cut short or damaged near byte {self._at:,}")
        self._at += size
        return self._data[self._at - size : self._at]

    def _scalar(self, kind):
        return struct.unpack(f"<{kind}", self._take(struct.calcsize(f"<{kind}")).tobytes())[0]

    def _string(self):
        raw = self._take(self._scalar("H")).tobytes()
        try:
            return raw.rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{self.path} holds a name that is no text: {raw[:40]!r}") from None

    def _array(self):
        rank = self._scalar("B")
        if rank > RANK:
            raise ValueError(f"{self.path}: a tensor of {rank} axes near byte {self._at:,}")
        shape = tuple(self._scalar("I") for _ in range(rank))
        kind, size = self._scalar("B"), self._scalar("I")
        if kind not in DTYPES:
            raise ValueError(f"{self.path}: a tensor of type {kind}; known: {sorted(DTYPES)}")
        dtype, wanted = np.dtype(DTYPES[kind]), 1
        for side in shape:
            wanted *= side
        if size != wanted * dtype.itemsize:
            raise ValueError(f"{self.path}: {size:,} bytes for a tensor of shape {shape} ({dtype})")
        return np.frombuffer(self._take(size).tobytes(), dtype).reshape(shape)


def config(reader: Reader, special: Mapping) -> dict:
    """The reference's config.json of a Whisper. ValueError for another specification or option."""
    if reader.spec != "WhisperSpec":
        raise ValueError(f"{reader.path} is a {reader.spec!r:.60}; only WhisperSpec is read")
    for name, wanted in (("decoder/pre_norm", 1), ("decoder/scale_embeddings", 0)):
        if int(reader.get(name, wanted)) != wanted:
            raise ValueError(f"{reader.path}: {name} is {int(reader[name])}; expected {wanted}")
    count = lambda side: sum(
        name.startswith(f"{side}/layer_") and name.endswith("/ffn/layer_norm/gamma")
        for name in reader
    )
    heads = {side: int(reader[f"{side}/num_heads"]) for side in ("encoder", "decoder")}
    wide = {side: _shape(reader, f"{side}/layer_0/ffn/linear_0/weight")[0] for side in heads}
    vocab, width = _shape(reader, "decoder/embeddings/weight")
    return dict(
        model_type="whisper", architectures=["WhisperForConditionalGeneration"], vocab_size=vocab,
        d_model=width, num_mel_bins=_shape(reader, "encoder/conv1/weight")[1],
        encoder_layers=count("encoder"), decoder_layers=count("decoder"),
        encoder_attention_heads=heads["encoder"], decoder_attention_heads=heads["decoder"],
        encoder_ffn_dim=wide["encoder"], decoder_ffn_dim=wide["decoder"],
        max_source_positions=_shape(reader, "encoder/position_encodings/encodings")[0],
        max_target_positions=_shape(reader, "decoder/position_encodings/encodings")[0], **special,
    )  # fmt: skip


def _shape(reader, name):
    if name not in reader:
        raise ValueError(f"{reader.path} lacks the tensor {name!r}")
    return reader[name].shape


def whisper(reader: Reader) -> dict:
    """{the reference's name: float32 array}; the zeros that stand for a key's bias are left out."""
    found = {"model.decoder.embed_tokens.weight": reader["decoder/embeddings/weight"]}
    for name in reader:
        side, *inner = name.split("/")
        body = f"model.{side}"
        if inner and inner[0] in ("conv1", "conv2"):
            found[f"{body}.{inner[0]}.{inner[1]}"] = reader[name]
        elif inner[:1] == ["position_encodings"]:
            found[f"{body}.embed_positions.weight"] = reader[name]
        elif inner[:1] == ["layer_norm"]:
            found[f"{body}.layer_norm.{_NORM[inner[1]]}"] = reader[name]
        elif inner and inner[0].startswith("layer_"):
            layer = f"{body}.layers.{inner[0].removeprefix('layer_')}"
            found.update(_layer(reader, layer, inner[1:], reader[name]))
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def _layer(reader, layer, path, array) -> dict:
    part, piece, end = path if len(path) == 3 else ("", "", "")
    if part == "ffn":
        theirs = {"linear_0": "fc1", "linear_1": "fc2", "layer_norm": "final_layer_norm"}[piece]
        return {f"{layer}.{theirs}.{_NORM.get(end, end)}": array}
    module = {"self_attention": "self_attn", "attention": "encoder_attn"}.get(part)
    if module is None:
        raise ValueError(f"{reader.path}: no place for a tensor of {'/'.join(path)!r:.80}")
    if piece == "layer_norm":
        return {f"{layer}.{module}_layer_norm.{_NORM[end]}": array}
    order = {
        ("self_attn", "linear_0"): "qkv", ("self_attn", "linear_1"): "o",
        ("encoder_attn", "linear_0"): "q", ("encoder_attn", "linear_1"): "kv",
        ("encoder_attn", "linear_2"): "o",
    }[module, piece]  # fmt: skip
    parts = np.split(array, len(order))
    out = {}
    for letter, mine in zip(order, parts, strict=True):
        if letter == "k" and end == "bias":
            if np.any(mine):
                raise ValueError(f"{reader.path}: the keys of {layer} have a bias")
            continue
        name = "out_proj" if letter == "o" else f"{letter}_proj"
        out[f"{layer}.{module}.{name}.{end}"] = mine
    return out


class _Named(dict):
    """Tensors by name, as `models.interop.tensors.Tensors` gives them."""

    def shape(self, name):
        return self[name].shape


def is_folder(folder: Path, c: Mapping) -> bool:
    """Whether a folder with this config.json is CTranslate2's."""
    return "model_type" not in c and (folder / "model.bin").is_file()


def read(folder: Path, tokenizer) -> tuple:
    """(the reference's config.json, its tensors) of a folder of Whisper; its raw tokenizer, or None,
    tells the token that begins a target."""
    reader = Reader(folder / "model.bin")
    ids = {}
    if tokenizer is not None:
        start, end = map(tokenizer.token_to_id, ("<|startoftranscript|>", "<|endoftext|>"))
        if start is None or end is None:
            raise ValueError(f"the tokenizer of {folder} has no <|startoftranscript|>")
        ids = dict(
            decoder_start_token_id=start, eos_token_id=end, bos_token_id=end, pad_token_id=end
        )
    return config(reader, ids), _Named(whisper(reader))
