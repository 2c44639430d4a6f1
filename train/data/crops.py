"""Crops and sizes of one picture, for training and for evaluation."""

import math

import numpy as np
from PIL import Image

LARGE = 2**24  # pixels of a resized picture that is made as a whole
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


def shorter(width: int, height: int, side: int) -> tuple:
    """(width, height) with the shorter side at `side`; the other is truncated, as in torchvision."""
    wide = int(side * width / height) if width > height else side
    high = int(side * height / width) if height > width else side
    return wide, high


def part(picture, whole, left: int, top: int, size: int, kind="bicubic"):
    """What lies at (left, top, left + size, top + size) of the picture resized to `whole`.

    A long thin picture would be huge if it were resized: of one that has more than LARGE pixels no more
    is made than the part, from where it lies in the picture, with the same filter.
    """
    wide, high = whole
    if wide * high <= LARGE:
        if whole != picture.size:
            picture = picture.resize(whole, FILTERS[kind])
        return picture.crop((left, top, left + size, top + size))
    width, height = picture.size
    across, down = width / wide, height / high
    box = (
        left * across, top * down, min((left + size) * across, width),
        min((top + size) * down, height),
    )  # fmt: skip
    return picture.resize((size, size), FILTERS[kind], box)


def centre(picture, size: int, ratio: float, kind="bicubic"):
    """What is evaluated: the shorter side to size / ratio, then the middle size x size."""
    wide, high = shorter(*picture.size, math.floor(size / ratio))
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return part(picture, (wide, high), left, top, size, kind)


def scaled(picture, rng, size: int, sides, kind="bicubic"):
    """He et al. 2015: the shorter side drawn from `sides`, then a random size x size."""
    side = int(rng.integers(int(sides[0]), int(sides[1]) + 1))
    wide, high = shorter(*picture.size, side)
    left, top = int(rng.integers(0, wide - size + 1)), int(rng.integers(0, high - size + 1))
    return part(picture, (wide, high), left, top, size, kind)


def shifted(pixels, pad: int, shifts) -> np.ndarray:
    """Pictures [N,H,W,C] with a border of `pad` zeros, cut at shifts [N,2] in 0..2 * pad."""
    height, width = pixels.shape[1:3]
    framed = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = shifts[:, 0, None] + np.arange(height)
    columns = shifts[:, 1, None] + np.arange(width)
    return framed[np.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]]
