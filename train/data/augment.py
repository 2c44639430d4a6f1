"""Operations on one picture (Pillow, mode "L" or "RGB"), and RandAugment over them.

RandAugment (Cubuk et al. 2019) as DeiT uses it, timm's `rand-m9-mstd0.5-inc1`: two operations out of
fifteen, each drawn with replacement and done with probability 1/2, at a magnitude drawn from
N(9, 0.5) and clipped to 0..10; "inc": every operation grows stronger with its magnitude. TABLE gives
the argument at magnitude m. Where an operation needs a fill, it is the data's mean colour.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MOST = 10.0  # the largest magnitude


class Op(NamedTuple):
    """`apply(picture, argument, fill)`; `argument(share)` of a magnitude's share of 10.

    signed: the argument's sign, or for an enhancement the direction from 1, is drawn.
    """

    apply: Callable
    argument: Callable
    signed: bool = False


def affine(picture, matrix, fill):
    """Pixel (x,y) is taken from (ax+by+c, dx+ey+f), by bicubic interpolation."""
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill
    )


def solarize_add(picture, added, _=None):
    """Adds to what is darker than 128."""
    table = [min(255, i + added) if i < 128 else i for i in range(256)]
    return picture.point(table * len(picture.getbands()))


def posterize(picture, bits, _=None):
    """Keeps the upper bits; none of them is black, which Pillow refuses."""
    return ImageOps.posterize(picture, bits) if bits else picture.point(lambda _: 0)


def enhance(kind) -> Callable:
    """Pillow's enhancement by a factor: 1 changes nothing."""
    return lambda picture, factor, _=None: kind(picture).enhance(factor)


def _strength(share, sign=1):
    return max(0.1, 1.0 + sign * 0.9 * share)


color, contrast = enhance(ImageEnhance.Color), enhance(ImageEnhance.Contrast)
brightness, sharpness = enhance(ImageEnhance.Brightness), enhance(ImageEnhance.Sharpness)

TABLE = {
    "AutoContrast": Op(lambda p, *_: ImageOps.autocontrast(p), lambda share: None),
    "Equalize": Op(lambda p, *_: ImageOps.equalize(p), lambda share: None),
    "Invert": Op(lambda p, *_: ImageOps.invert(p), lambda share: None),
    "Rotate": Op(
        lambda p, degrees, fill: p.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=fill),
        lambda share, sign=1: sign * share * 30.0,
        True,
    ),
    "Posterize": Op(posterize, lambda share: 4 - int(share * 4)),
    "Solarize": Op(
        lambda p, level, _: ImageOps.solarize(p, level), lambda share: 256 - int(share * 256)
    ),
    "SolarizeAdd": Op(solarize_add, lambda share: int(share * 110)),
    "Color": Op(color, _strength, True),
    "Contrast": Op(contrast, _strength, True),
    "Brightness": Op(brightness, _strength, True),
    "Sharpness": Op(sharpness, _strength, True),
    "ShearX": Op(
        lambda p, x, fill: affine(p, (1, x, 0, 0, 1, 0), fill),
        lambda share, sign=1: sign * share * 0.3,
        True,
    ),
    "ShearY": Op(
        lambda p, x, fill: affine(p, (1, 0, 0, x, 1, 0), fill),
        lambda share, sign=1: sign * share * 0.3,
        True,
    ),
    "TranslateX": Op(
        lambda p, x, fill: affine(p, (1, 0, x * p.size[0], 0, 1, 0), fill),
        lambda share, sign=1: sign * share * 0.45,
        True,
    ),
    "TranslateY": Op(
        lambda p, x, fill: affine(p, (1, 0, 0, 0, 1, x * p.size[1]), fill),
        lambda share, sign=1: sign * share * 0.45,
        True,
    ),
}
NAMES = tuple(TABLE)


def apply(name: str, picture, magnitude: float, sign: int = 1, fill=0):
    """One operation of TABLE at a magnitude in 0..10; `sign` is 1 or -1."""
    op, share = TABLE[name], magnitude / MOST
    return op.apply(picture, op.argument(share, sign) if op.signed else op.argument(share), fill)


def rand_augment(picture, rng, layers=2, magnitude=9.0, spread=0.5, chance=0.5, fill=0):
    """Draws and applies `layers` operations."""
    for number in rng.integers(0, len(NAMES), layers):
        m = float(np.clip(rng.normal(magnitude, spread), 0.0, MOST))
        sign, done = (1 if rng.random() < 0.5 else -1), rng.random() < chance
        if done:
            picture = apply(NAMES[number], picture, m, sign, fill)
    return picture


def jitter(picture, rng, amount: float):
    """Brightness, contrast and colour by factors from [1 - amount, 1 + amount], in a drawn order."""
    for number in rng.permutation(3):
        factor = rng.uniform(max(0.0, 1 - amount), 1 + amount)
        picture = (brightness, contrast, color)[number](picture, factor)
    return picture


# Krizhevsky et al. 2012: the principal components of ImageNet's RGB values, as fb.resnet.torch has
# them, and their standard deviations on a scale of 0 to 1.
COMPONENTS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])


def lighting(pixels, rng, amount: float):
    """Adds N(0, amount) of each component's deviation along it: float32 [H,W,3] on a scale of 1."""
    return pixels + (COMPONENTS @ (rng.normal(0, amount, 3) * DEVIATIONS)).astype(np.float32)
