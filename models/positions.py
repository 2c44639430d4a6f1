"""Where a token stands, behind one interface: added to embeddings, rotated into heads, or a bias.

`Positions(o)(x, positions)` returns the embeddings with what this kind adds to them and the entries
that attention reads from the shared context: `rotary` = (cos, sin) tables [B,T,K/2] in float32.
A bias of scores by distance is made by `Relative`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.dropout import drop
from models.initial import deviation
from models.layers import normal
from models.options import Options
from models.placement import place


def default(mask, start):
    """Positions [B,T] that count real tokens: max(start + cumsum(mask) - 1, 0). start [B]."""
    return jnp.maximum(start[:, None] + jnp.cumsum(mask.astype(jnp.int32), 1) - 1, 0)


def count(o: Options, tokens, real, segments=None, cache=None):
    """Positions [B,T] where none are given.

    They count the real tokens (`default`), in each packed segment anew; with `o.position_pad` the
    tokens that are not that one, whose own is -1, as RoBERTa counts from the ids alone.
    """
    counted = tokens != o.position_pad if o.position_pad >= 0 else real.astype(bool)
    start = jnp.zeros((tokens.shape[0],), jnp.int32) if cache is None else cache["position"]
    if segments is None:
        found = default(counted, start)
    else:
        first = jnp.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0
        total = jnp.cumsum(counted.astype(jnp.int32), 1)
        before = jnp.where(first, total - counted, 0)
        found = jnp.maximum(total - 1 - jax.lax.cummax(before, 1), 0)
    return jnp.where(counted, found, -1) if o.position_pad >= 0 else found


def sinusoid(positions, width: int, halves: bool = False):
    """Sines and cosines interleaved (Vaswani et al. 2017, section 3.5): [B,T] -> [B,T,width].

    `halves` puts all sines before all cosines, as tensor2tensor and Marian do: another order of the
    same numbers, which matters to weights that were trained with it.
    """
    rates = np.exp(-math.log(10000.0) * np.arange(0, width, 2) / width).astype(np.float32)
    angles = positions[..., None].astype(jnp.float32) * rates
    if halves:
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*positions.shape, width)


def frequencies(o: Options):
    """Rotary frequencies [K/2] in float32 (Su et al. 2021), scaled if the options say so.

    "linear" divides all by `rope_factor` (Chen et al. 2023). "llama3" divides those whose wave
    length exceeds rope_original / rope_low, keeps those below rope_original / rope_high and blends
    between (Grattafiori et al. 2024; the reference library's rule).
    """
    exponents = np.arange(0, o.size, 2, dtype=np.float32) / np.float32(o.size)
    rates = (1.0 / (np.float32(o.rope_theta) ** exponents)).astype(np.float32)
    if o.rope_scaling == "linear":
        return rates / np.float32(o.rope_factor)
    if o.rope_scaling == "llama3":
        length = 2 * np.pi / rates
        blend = (o.rope_original / length - o.rope_low) / (o.rope_high - o.rope_low)
        mixed = (1 - blend) * rates / o.rope_factor + blend * rates
        slow, fast = o.rope_original / o.rope_low, o.rope_original / o.rope_high
        rates = np.where(
            length > slow, rates / o.rope_factor, np.where(length < fast, rates, mixed)
        )
    return rates.astype(np.float32)


def rotate(x, table):
    """Rotates heads x [B,T,H,K] by (cos, sin) [B,T,K/2], in the half-split layout, in float32."""
    cos, sin = (t[:, :, None, :] for t in table)
    first, second = jnp.split(x.astype(jnp.float32), 2, -1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.astype(x.dtype)


class Positions(nn.Module):
    """x [B,T,D], positions [B,T] -> (x with what is added, context entries)."""

    o: Options

    @nn.compact
    def __call__(self, x, positions, key=None):
        o = self.o
        if o.positions == "learned":
            shape = (o.context + o.position_offset, o.thin)
            table = self.param("embedding", normal(o.init_positions), shape, jnp.float32)
            if o.drop_table:
                table = drop(table, o.drop_embed, key)
            return x + place(table, None, None).astype(x.dtype)[positions + o.position_offset], {}
        if o.positions in ("sinusoidal", "sinusoidal_halves"):
            halves = o.positions == "sinusoidal_halves"
            return x + sinusoid(positions, o.thin, halves).astype(x.dtype), {}
        if o.positions == "rotary":
            angles = positions[..., None].astype(jnp.float32) * frequencies(o)
            return x, {"rotary": (jnp.cos(angles), jnp.sin(angles))}
        return x, {}


def buckets(o: Options):
    """The bucket of every distance from -o.distance to o.distance, int32 [2 * o.distance + 1].

    Raffel et al. 2020, section 2.1: half of the buckets are one distance each, the others grow
    logarithmically up to `o.distance`, and all that is farther shares the last. Looking both ways,
    half of all are for keys after the query; a causal stack has none for those. The logarithm is
    float32 and cut towards 0, as in the reference, whose edges that decides.
    """
    far = np.arange(-o.distance, o.distance + 1)
    count = o.buckets if o.causal else o.buckets // 2
    later = 0 if o.causal else (far > 0) * count
    far = np.maximum(-far, 0) if o.causal else np.abs(far)
    exact = count // 2
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(o.distance / exact)) * np.float32(count - exact)
    wide = np.minimum(exact + ratio.astype(np.int64), count - 1)
    return (later + np.where(far < exact, far, wide)).astype(np.int32)


class Relative(nn.Module):
    """A learned bias of scores for each head and bucket of distances (Raffel et al. 2020, section 2.1).

    `(time, keys, start)` gives [1,H,T,S] in float32 for queries at slots start, start + 1, ... (no
    start is 0); all layers of a stack add the same.
    """

    o: Options

    @nn.compact
    def __call__(self, time: int, keys: int, start=None):
        o = self.o
        std, shape = deviation(o, "relative"), (o.buckets, o.heads)
        table = self.param("embedding", normal(std), shape, jnp.float32)
        known, last = buckets(o), o.distance
        if start is None:
            distances = np.clip(np.arange(1 - time, keys), -last, last)
            return diagonals(table[known[distances + last]].T, time, keys)[None]
        distances = jnp.arange(keys) - start - jnp.arange(time)[:, None]
        index = jnp.asarray(known)[jnp.clip(distances, -last, last) + last]
        return jnp.moveaxis(table[index], -1, 0)[None]


def diagonals(values, time: int, keys: int):
    """[H,T,S] with values[:, s - t + T - 1] at (t, s), from values [H,T+S-1].

    Rows of T + S values are read as rows of T + S - 1, so that each is the one above moved by one;
    a gather of T * S entries would have a scatter for a gradient.
    """
    heads, length = values.shape
    rows = jnp.broadcast_to(jnp.pad(values, ((0, 0), (0, 1)))[:, None], (heads, time, length + 1))
    flat = rows.reshape(heads, -1)[:, : time * length]
    return flat.reshape(heads, time, length)[:, :, time - 1 :]
