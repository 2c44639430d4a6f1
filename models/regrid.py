"""Parameters made for one grid of patches, brought to another: fine-tuning at a higher resolution.

Tables of learned positions are resized as the model resizes them, the rows of tokens kept
(Dosovitskiy et al. 2020, section 3.2); tables of 2-D distances linearly between their distances (Bao et al.
2021 and Liu et al. 2021 do so by splines). One table for all layers becomes a table in each, as BEiT's
pre-training does to its fine-tuning. A distillation token (Touvron et al. 2020) that the other model does
not have begins where its neighbour, [CLS], stands, and one that this model does not have loses its row.
"""

import math
import re

import jax.numpy as jnp

from models.grids import resize
from models.options import Options

LAYERS = re.compile(r"^blocks/(\d+)/attn/relative/embedding$")
SHARED, POSITIONS = "relative/embedding", "embed/positions/embedding"


def fit(given: dict, shapes: dict, o: Options, before: Options | None = None) -> dict:
    """{path: array} by the model's {path: shape}; what needs nothing is given back as it is.

    `o` are the options of the model that the arrays are for, `before` of the one that they are from;
    grids and tokens of an unknown one are taken to be square, and this model's. ValueError for a
    table that is not of such a grid.
    """
    given = dict(given)
    before = before if before is not None and before.kind == o.kind else None
    if SHARED in given and SHARED not in shapes:
        table = given.pop(SHARED)
        given.update({name: table for name in shapes if LAYERS.match(name) and name not in given})
    for name, shape in shapes.items():
        if name not in given or before is None and tuple(given[name].shape) == tuple(shape):
            continue
        if name == POSITIONS:
            given[name] = _positions(given[name], shape, o, before)
        elif name.endswith("relative/embedding"):
            given[name] = _distances(given[name], shape, o, before)
    return given


def _positions(table, shape, o: Options, before: Options | None):
    """The rows of tokens, then those of the patches, resized."""
    tokens = _counted(o)
    old = tokens if before is None else _counted(before)
    sides = _sides(POSITIONS, table, len(old), before and before.grid)
    new = _sides(POSITIONS, shape, len(tokens), o.grid)
    if old == tokens and sides == new:
        return table
    known = {name: table[row] for row, name in enumerate(old)}
    fresh = known.get("cls")
    lost = [name for name in tokens if name not in known and (name != "dist" or fresh is None)]
    if lost:
        raise ValueError(f"{POSITIONS} has no row for the token {lost[0]}, which the model has")
    rows = [known.get(name, fresh) for name in tokens]
    patches = _resized(table[len(old) :], sides, new, o.resize)
    return jnp.concatenate([jnp.stack(rows), patches]) if rows else patches


def _counted(o: Options) -> list:
    """The tokens with a row of their own before those of the patches."""
    names = ["cls"] * o.cls_token + ["dist"] * o.dist_token
    names += [f"register {n}" for n in range(o.registers)]
    return names if o.position_tokens else []


def _distances(table, shape, o: Options, before: Options | None):
    """The distances of a grid resized; rows for the tokens, behind them, stay. A window is square."""
    kept, spans = 3 * o.prefix, [None, None]
    if o.kind == "vit":
        spread = lambda grid: tuple(2 * side - 1 for side in grid)
        spans = [before and spread(before.relative_grid), spread(o.relative_grid)]
    elif tuple(table.shape) == tuple(shape):
        return table
    old, new = (
        _sides(SHARED, x, kept, sides) for x, sides in zip((table, shape), spans, strict=True)
    )
    if old == new:
        return table
    rows = len(table) - kept
    return jnp.concatenate([_resized(table[:rows], old, new, "linear"), table[rows:]])


def _resized(rows, old: tuple, new: tuple, method: str):
    return resize(rows.reshape(*old, -1), new, method).reshape(math.prod(new), -1)


def _sides(name: str, table, kept: int, sides) -> tuple:
    """The grid of a table or a shape: `sides`, or a square's where they are not known; ValueError."""
    rows = getattr(table, "shape", table)[0]
    side = math.isqrt(max(rows - kept, 0))
    found = tuple(sides or (side, side))
    if math.prod(found) + kept != rows:
        wanted = f"a grid of {found[0]} x {found[1]}" if sides else "a square grid"
        raise ValueError(f"{name} has {rows} rows: not those of {wanted} and {kept} for tokens")
    return found
