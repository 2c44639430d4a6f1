"""Block formats of ggml, dequantised to float32 with numpy, a whole tensor at a time.

A format packs 32 or 256 neighbouring weights into one block: small integers, a scale and perhaps a
minimum (ggml's block_q4_0 and so on). Every function takes blocks [N, bytes] as uint8 and returns
float32 [N, weights]. Sums are made in float32 in the order of ggml's own reference functions.
"""

import ml_dtypes
import numpy as np


def _half(blocks, at):
    """The float16 at byte `at` of each block, [N,1] in float32."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed):
    """[..., n] bytes -> [..., 2n]: all low halves, then all high halves."""
    return np.concatenate([packed & 15, packed >> 4], -1)


def _fifth(blocks, at):
    """The 32 fifth bits stored at byte `at`, shifted into place: [N,32] uint8."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _q4_0(blocks):
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.int8) - np.int8(8))


def _q4_1(blocks):
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)


def _q5_0(blocks):
    whole = _nibbles(blocks[:, 6:]) | _fifth(blocks, 2)
    return _half(blocks, 0) * (whole.astype(np.int8) - np.int8(16))


def _q5_1(blocks):
    return _half(blocks, 0) * (_nibbles(blocks[:, 8:]) | _fifth(blocks, 4)) + _half(blocks, 2)


def _q8_0(blocks):
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8)


def _scales(packed):
    """The 8 six-bit scales and minima packed in 12 bytes: two [N,8,1] in float32."""
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], 1)
    least = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], 1)
    return scale[..., None].astype(np.float32), least[..., None].astype(np.float32)


def _eighths(packed):
    """128 bytes of four-bit values -> [N,8,32]: a run of 32 bytes holds two sub-blocks."""
    return _nibbles(packed.reshape(-1, 4, 32)).reshape(-1, 8, 32)


def _q4_k(blocks):
    scale, least = _scales(blocks[:, 4:16])
    d, low = _half(blocks, 0)[:, None], _half(blocks, 2)[:, None]
    return (d * scale * _eighths(blocks[:, 16:]) - low * least).reshape(-1, 256)


def _q5_k(blocks):
    scale, least = _scales(blocks[:, 4:16])
    d, low = _half(blocks, 0)[:, None], _half(blocks, 2)[:, None]
    bits = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return (d * scale * (_eighths(blocks[:, 48:]) | bits << 4) - low * least).reshape(-1, 256)


def _q6_k(blocks):
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3
    values = (low | high << 4).astype(np.int8) - np.int8(32)
    scale = blocks[:, 192:208].view(np.int8).reshape(-1, 16, 1).astype(np.float32)
    return (_half(blocks, 208)[:, None] * scale * values.reshape(-1, 16, 16)).reshape(-1, 256)


FORMATS = {  # ggml's number: (name, weights in a block, bytes of a block, function)
    2: ("Q4_0", 32, 18, _q4_0),
    3: ("Q4_1", 32, 20, _q4_1),
    6: ("Q5_0", 32, 22, _q5_0),
    7: ("Q5_1", 32, 24, _q5_1),
    8: ("Q8_0", 32, 34, _q8_0),
    12: ("Q4_K", 256, 144, _q4_k),
    13: ("Q5_K", 256, 176, _q5_k),
    14: ("Q6_K", 256, 210, _q6_k),
}
PLAIN = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 28: np.dtype("<f8"), 30: ml_dtypes.bfloat16}


def size(kind: int, count: int) -> int:
    """The bytes of `count` weights. ValueError for an unknown format or a count that cannot be."""
    if kind in PLAIN:
        return count * np.dtype(PLAIN[kind]).itemsize
    if kind not in FORMATS:
        known = ", ".join(["F32", "F16", "F64", "BF16", *(row[0] for row in FORMATS.values())])
        raise ValueError(f"ggml format number {kind} is not supported; supported are {known}")
    name, weights, width, _ = FORMATS[kind]
    if count % weights:
        raise ValueError(f"{count} weights do not fill {name} blocks of {weights}")
    return count // weights * width


def dequantise(raw: np.ndarray, kind: int) -> np.ndarray:
    """Bytes [n] (uint8) of one tensor to its weights, float32 [count]."""
    if kind in PLAIN:
        return raw.view(PLAIN[kind]).astype(np.float32)
    _, _, width, unpack = FORMATS[kind]
    return unpack(raw.reshape(-1, width)).astype(np.float32, copy=False).reshape(-1)
