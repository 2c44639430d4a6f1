"""Positions on a grid of patches: tables and how they are resized, sines, 2-D relative biases."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from models.layers import normal
from models.options import Options
from models.positions import diagonals


def matrix(old: int, new: int, method: str) -> np.ndarray:
    """The weights [new, old] with which `old` samples become `new`, pixel centres at halves.

    "bicubic": Keys' kernel with a = -0.75, the border repeated, no antialiasing, as in the reference
    library. "antialias": a = -0.5, the kernel as wide as a new pixel, weights renormalised at the
    border, as in Pillow and timm. "linear": two neighbours, the border repeated.
    """
    scale, out = old / new, np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * scale - 0.5
        if method == "antialias":
            wide = max(scale, 1.0)
            first = max(int(centre - 2 * wide + 1), 0)
            last = min(int(centre + 2 * wide + 1), old)
            places = np.arange(first, last)
            weights = _cubic((places - centre) / wide, -0.5)
            out[i, places] = weights / weights.sum()
            continue
        centre = max(centre, 0.0) if method == "linear" else centre
        base = math.floor(centre)
        taps = range(base - 1, base + 3) if method == "bicubic" else (base, base + 1)
        for tap in taps:
            far = tap - centre
            weight = _cubic(np.array(far), -0.75) if method == "bicubic" else 1 - abs(far)
            out[i, min(max(tap, 0), old - 1)] += weight
    return out.astype(np.float32)


def _cubic(x, a: float):
    """Keys' cubic convolution kernel (Keys 1981)."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize(table, new: tuple, method: str):
    """A table [h,w,D] for another grid [h',w',D]; the same grid gives the same table."""
    for axis, size in enumerate(new):
        if table.shape[axis] != size:
            weights = matrix(table.shape[axis], size, method)
            table = jnp.moveaxis(jnp.tensordot(weights, table, (1, axis)), 0, axis)
    return table


def sines(grid: tuple, width: int) -> np.ndarray:
    """Sines and cosines of columns, then of rows, [rows * columns, width] (He et al. 2022, MAE).

    Each quarter of the width holds the sines or the cosines of one axis, with the frequencies of
    Vaswani et al. 2017 for half the width.
    """
    rates = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    parts = []
    for place in (columns, rows):
        angles = place.reshape(-1, 1) * rates
        parts += [np.sin(angles), np.cos(angles)]
    return np.concatenate(parts, 1).astype(np.float32)


class Positions(nn.Module):
    """What is added to tokens and patches of a grid: [prefix + rows * columns, D].

    Learned tables are resized to the grid (Dosovitskiy et al. 2020, section 3.2), the tokens' rows
    kept as they are.
    """

    o: Options

    @nn.compact
    def __call__(self, grid: tuple):
        o, counted = self.o, self.o.prefix * self.o.position_tokens
        if o.positions == "sinusoidal_2d":
            return jnp.pad(sines(grid, o.width), ((o.prefix, 0), (0, 0)))
        shape = (counted + math.prod(o.grid), o.width)
        table = self.param("embedding", normal(o.init_positions), shape, jnp.float32)
        patches = table[counted:]
        if grid != o.grid:
            patches = resize(patches.reshape(*o.grid, -1), grid, o.resize)
            patches = patches.reshape(-1, o.width)
        tokens = jnp.pad(table[:counted], ((o.prefix - counted, 0), (0, 0)))
        return jnp.concatenate([tokens, patches])


class Relative(nn.Module):
    """A learned bias of scores for each head and each distance in rows and columns, [1,H,T,T].

    (Liu et al. 2021, section 3.2; Bao et al. 2021.) The table has a row for each distance, query -
    key, of a grid of `sides`, rows of the grid first; with a token before the patches three more:
    from the token to patches, from patches to it, from it to itself. Of a larger grid a smaller one
    takes the middle if `fixed`, else the table is resized bilinearly to any other grid.
    """

    o: Options
    sides: tuple
    prefix: int = 0
    fixed: bool = False

    @nn.compact
    def __call__(self, grid: tuple):
        o, sides = self.o, self.sides
        spans = tuple(2 * side - 1 for side in sides)
        shape = (math.prod(spans) + 3 * self.prefix, o.heads)
        table = self.param("embedding", normal(o.init_positions), shape, jnp.float32)
        patches = table[: math.prod(spans)].reshape(*spans, -1)
        if self.fixed:
            cut = [slice(old - new, old + new - 1) for old, new in zip(sides, grid, strict=True)]
            patches = patches[tuple(cut)]
        else:
            patches = resize(patches, tuple(2 * side - 1 for side in grid), "linear")
        bias = _pairs(patches, grid)
        if self.prefix:
            size = bias.shape[-1]
            out, into, own = (x[:, None, None] for x in table[-3:])
            into = jnp.broadcast_to(into, (o.heads, size, 1))
            above = jnp.concatenate([own, jnp.broadcast_to(out, (o.heads, 1, size))], 2)
            bias = jnp.concatenate([above, jnp.concatenate([into, bias], 2)], 1)
        return bias[None]


def _pairs(table, grid):
    """[H,T,T] for every pair of patches, of a table [2h-1,2w-1,H] of distances; no gather."""
    (height, width), heads = grid, table.shape[-1]
    turned = table[::-1, ::-1].transpose(2, 0, 1).reshape(-1, 2 * width - 1)
    columns = diagonals(turned, width, width).reshape(heads, -1, width * width)
    columns = columns.transpose(0, 2, 1).reshape(-1, 2 * height - 1)
    pairs = diagonals(columns, height, height).reshape(heads, width, width, height, height)
    return pairs.transpose(0, 3, 1, 4, 2).reshape(heads, height * width, height * width)
