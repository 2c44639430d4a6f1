"""Whether what a stream of pictures gives is what a model reads, and how one model reads another's pixels."""

import numpy as np

from train.data import images
from train.data.prepare import Augment


def fits(config, o):
    """ValueError where the pictures of config.data are not of the size that a model's tables are for."""
    if o.image_width not in (0, o.image_size):
        raise ValueError(
            f"config.model reads pictures of {o.image_size} x {o.image_width}; the stream's are square: "
            f"use --config.model.image_width=0"
        )
    augment = Augment.of(config.get("augment", {}))
    if augment.crop == "sides" and int(augment.scale[0]) < o.image_size:
        raise ValueError(
            f"config.augment.scale is {augment.scale}, sides in pixels; a crop of "
            f"config.model.image_size={o.image_size} needs at least that many"
        )


def rescaling(config, other):
    """(factor, shift) [C] that bring this run's pixels to the scale of another run's; None: they are.

    A run that was converted from weights that name no scale is taken to have this one's.
    """
    if "mean" not in other.get("data", {}) and "steps" not in other:
        return None
    own, told = images.shape(config), images.shape(other)
    pairs = [(own.mean, told.mean), (own.deviation, told.deviation)]
    if all(np.array_equal(a, b) for a, b in pairs):
        return None
    (mean, theirs), (spread, wide) = (map(np.asarray, pair) for pair in pairs)
    return np.float32(spread / wide), np.float32((mean - theirs) / wide)


def rescaled(pixels, by):
    """Normalised pixels [...,C] after `rescaling`."""
    return pixels if by is None else pixels * by[0] + by[1]


def same_classes(name, theirs, ours):
    """ValueError where a run names other classes than the data, or in another order."""
    theirs, ours = tuple(map(str, theirs)), tuple(map(str, ours))
    if not theirs or not ours or theirs == ours:
        return
    differ = next((pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]), None)
    words = f"{len(theirs)} classes are not {len(ours)}"
    if differ:
        words = f"{differ[0]!r} is not {differ[1]!r}"
    raise ValueError(
        f"{name} knows other classes than the data, or in another order: {words}\n"
        "--config.allow_mismatch=true takes them as they stand"
    )
