"""Crops and sizes of one picture, for training and for evaluation."""

import math

import numpy as np
from PIL import Image

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def area(width, height, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)) -> tuple:
    """(left, top, right, bottom) of Szegedy et al. 2015's crop, as torchvision draws it.

    A share of the area from `scale` and an aspect from `ratio`, uniform in its logarithm; after ten
    tries that do not fit, the largest central crop whose aspect is allowed.
    """
    for _ in range(10):
        wanted = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(wanted * aspect)), round(math.sqrt(wanted / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized(picture, rng, size: int, scale, kind="bicubic"):
    """A random area, resized to size x size."""
    box = area(*picture.size, rng, tuple(scale))
    return picture.crop(box).resize((size, size), FILTERS[kind])


def shorter(picture, side: int, kind="bicubic"):
    """Resized so that the shorter side is `side`; the other is truncated, as in torchvision."""
    width, height = picture.size
    if min(width, height) == side:
        return picture
    wide = int(side * width / height) if width > height else side
    high = int(side * height / width) if height > width else side
    return picture.resize((wide, high), FILTERS[kind])


def centre(picture, size: int, ratio: float, kind="bicubic"):
    """What is evaluated: the shorter side to size / ratio, then the middle size x size."""
    picture = shorter(picture, math.floor(size / ratio), kind)
    width, height = picture.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def scaled(picture, rng, size: int, sides, kind="bicubic"):
    """He et al. 2015: the shorter side drawn from `sides`, then a random size x size."""
    picture = shorter(picture, int(rng.integers(int(sides[0]), int(sides[1]) + 1)), kind)
    width, height = picture.size
    left, top = int(rng.integers(0, width - size + 1)), int(rng.integers(0, height - size + 1))
    return picture.crop((left, top, left + size, top + size))


def shifted(pixels, pad: int, shifts) -> np.ndarray:
    """Pictures [N,H,W,C] with a border of `pad` zeros, cut at shifts [N,2] in 0..2 * pad."""
    height, width = pixels.shape[1:3]
    framed = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = shifts[:, 0, None] + np.arange(height)
    columns = shifts[:, 1, None] + np.arange(width)
    return framed[np.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]]
