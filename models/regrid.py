"""Parameters made for one grid of patches, brought to another: fine-tuning at a higher resolution.

Tables of learned positions are resized as the model resizes them, the rows of tokens kept
(Dosovitskiy et al. 2020, section 3.2); tables of 2-D distances linearly between their distances (Bao et al.
2021 and Liu et al. 2021 do so by splines). One table for all layers becomes a table in each, as BEiT's
pre-training does to its fine-tuning. Grids are square.
"""

import math
import re

import jax.numpy as jnp

from models.grids import resize
from models.options import Options

LAYERS = re.compile(r"^blocks/(\d+)/attn/relative/embedding$")
SHARED = "relative/embedding"


def fit(given: dict, shapes: dict, o: Options) -> dict:
    """{path: array} by the model's {path: shape}; what needs nothing is given back as it is.

    `o` are the options of the model that the arrays are for. ValueError for a table that is no
    square's.
    """
    given = dict(given)
    if SHARED in given and SHARED not in shapes:
        table = given.pop(SHARED)
        given.update({name: table for name in shapes if LAYERS.match(name) and name not in given})
    for name, shape in shapes.items():
        if name not in given or tuple(given[name].shape) == tuple(shape):
            continue
        if name.endswith("relative/embedding"):
            given[name] = _resized(given[name], shape, 3 * o.prefix, "linear", True, name)
        elif name == "embed/positions/embedding":
            kept = o.prefix * o.position_tokens
            given[name] = _resized(given[name], shape, kept, o.resize, False, name)
    return given


def _resized(table, shape, kept: int, method: str, last: bool, name: str):
    """The squares of a table resized; `kept` rows, before or (last) behind them, stay."""
    old, new = (math.isqrt(rows - kept) for rows in (table.shape[0], shape[0]))
    if old * old + kept != table.shape[0] or new * new + kept != shape[0]:
        raise ValueError(
            f"{name} has {table.shape[0]} rows, the model needs {shape[0]}: only square grids are "
            f"resized, with {kept} rows for the tokens before them"
        )
    square = table[:-kept] if last and kept else table[kept:] if not last else table
    rest = table[len(table) - kept :] if last else table[:kept]
    made = resize(square.reshape(old, old, -1), (new, new), method).reshape(new * new, -1)
    return jnp.concatenate([made, rest] if last else [rest, made])
