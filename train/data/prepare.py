"""What is done to pictures between their source and the model: settings, and one picture at a time.

`config.augment` holds what training does; what it leaves out is off. Evaluation resizes the shorter
side to image_size / data.crop_share and takes the middle.
"""

import dataclasses

import numpy as np

from train.core.errors import nearest
from train.data import augment, crops, decode, mixing

# ImageNet's, which torchvision and timm use.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What `train.data.images` reads in config.data beside a picture's shape.
DATA = {
    "valid": "", "valid_share": 0.1, "task": "classify", "labelled": 1.0, "bad": "error",
    "workers": 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Augment:
    """config.augment.

    crop: "none" (as in evaluation), "area" (a random share of the picture from `scale`), "sides" (the
    shorter side from `scale`, in pixels), "shift" (a border of `pad` zeros, then a random crop).
    flip: the probability of a horizontal flip. layers, magnitude, spread: RandAugment, 0 layers is
    off. jitter: of brightness, contrast and colour. lighting: along ImageNet's components. erase:
    probability. mixup, cutmix: alphas; switch: how often cutmix where both are on; mix: how often
    at all. repeats: how often a picture is in an epoch (repeated augmentation, Hoffer et al. 2019).
    """

    crop: str = "none"
    scale: tuple = (0.08, 1.0)
    pad: int = 0
    resample: str = "bicubic"
    flip: float = 0.0
    layers: int = 0
    magnitude: float = 9.0
    spread: float = 0.5
    jitter: float = 0.0
    lighting: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    mix: float = 1.0
    repeats: int = 1

    def __post_init__(self):
        for name, known in (("crop", CROPS), ("resample", tuple(crops.FILTERS))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"config.augment.{name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(known)}"
                )
        for name in ("flip", "erase", "switch", "mix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"config.augment.{name} is {getattr(self, name)}; expected a probability"
                )
        for name in ("layers", "magnitude", "spread", "jitter", "mixup", "cutmix", "pad"):
            if getattr(self, name) < 0:
                raise ValueError(f"config.augment.{name} is {getattr(self, name)}; expected >= 0")
        if self.repeats < 1 or len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise ValueError(
                f"config.augment has repeats={self.repeats} and scale={self.scale}; expected at "
                "least 1, and (least, most)"
            )
        least, most = self.scale
        if self.crop == "area" and not 0 < least <= most <= 1:
            raise ValueError(
                f"config.augment.scale is {self.scale}; a crop of an area needs shares above 0, at most 1"
            )
        if self.crop == "sides" and not 1 <= least <= most:
            raise ValueError(
                f"config.augment.scale is {self.scale}; a crop=sides needs sides in pixels, (256, 480)"
            )

    @classmethod
    def of(cls, section) -> "Augment":
        """From config.augment; ValueError names an unknown field."""
        section = dict(section)
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = next((name for name in section if name not in known), None)
        if unknown:
            raise ValueError(f"config.augment has no field {unknown!r}; {nearest(unknown, known)}")
        return cls(**section)

    @property
    def plain(self) -> bool:
        """Whether nothing needs Pillow: pictures may be handled as one array."""
        return self.crop in ("none", "shift") and not (self.layers or self.jitter or self.lighting)


CROPS = ("none", "area", "sides", "shift")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the model reads: pictures of size x size x channels, normalised by mean and deviation."""

    size: int
    channels: int = 3
    mean: tuple = MEAN
    deviation: tuple = DEVIATION
    crop_share: float = 0.875
    resample: str = "bicubic"
    max_pixels: int = decode.MAX_PIXELS

    def __post_init__(self):
        for name in ("mean", "deviation"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(
                    f"config.data.{name} has {len(getattr(self, name))} numbers; "
                    f"config.model.channels is {self.channels}"
                )
        if self.resample not in crops.FILTERS:
            raise ValueError(
                f"config.data.resample is {self.resample!r}; expected one of {', '.join(crops.FILTERS)}"
            )
        if self.max_pixels < 1:
            raise ValueError(f"config.data.max_pixels is {self.max_pixels}; expected at least 1")
        if self.channels not in (1, 3) or not 0 < self.crop_share <= 1 or min(self.deviation) <= 0:
            raise ValueError(
                f"pictures of {self.channels} channels with crop_share={self.crop_share} and "
                f"deviation={self.deviation}; expected 1 or 3, a share, and more than 0"
            )

    def normal(self, pixels) -> np.ndarray:
        """float32 of uint8 (or 0..255) pixels [...,C]: (x / 255 - mean) / deviation."""
        scale = (1 / (255 * np.asarray(self.deviation))).astype(np.float32)
        shift = (np.asarray(self.mean) / np.asarray(self.deviation)).astype(np.float32)
        return np.asarray(pixels, np.float32) * scale - shift

    def fits(self, pixels) -> bool:
        """Whether pictures [N,H,W,C] are what the model reads but for the numbers."""
        wanted = (self.size, self.size, self.channels)
        return pixels is not None and pixels.shape[1:] == wanted and self.crop_share == 1

    def fill(self):
        """The mean colour, as Pillow takes it."""
        colour = tuple(min(255, round(255 * x)) for x in self.mean)
        return colour if self.channels == 3 else colour[0]

    def evaluated(self, raw, where) -> np.ndarray:
        """uint8 [size,size,C]; BadImage."""
        picture = decode.decode(raw, self.channels, where, self.max_pixels)
        return decode.pixels(crops.centre(picture, self.size, self.crop_share, self.resample))

    def trained(self, raw, where, a: Augment, rng) -> np.ndarray:
        """One augmented picture, float32 [size,size,C] normalised; BadImage."""
        picture = decode.decode(raw, self.channels, where, self.max_pixels)
        if a.crop == "area":
            picture = crops.resized(picture, rng, self.size, a.scale, a.resample)
        elif a.crop == "sides":
            picture = crops.scaled(picture, rng, self.size, a.scale, a.resample)
        else:
            picture = crops.centre(picture, self.size, self.crop_share, a.resample)
        if a.crop == "shift":
            pixels = decode.pixels(picture)[None]
            moved = crops.shifted(pixels, a.pad, rng.integers(0, 2 * a.pad + 1, (1, 2)))[0]
            picture = decode.decode(moved, self.channels, where)
        if rng.random() < a.flip:
            picture = picture.transpose(decode.Image.Transpose.FLIP_LEFT_RIGHT)
        if a.layers:
            picture = augment.rand_augment(
                picture, rng, a.layers, a.magnitude, a.spread, fill=self.fill()
            )
        if a.jitter:
            picture = augment.jitter(picture, rng, a.jitter)
        pixels = decode.pixels(picture)
        if a.lighting:
            pixels = augment.lighting(pixels / np.float32(255), rng, a.lighting) * 255
        return mixing.erase(self.normal(pixels), rng, a.erase)


def defaults() -> tuple[dict, dict]:
    """The fields of config.data and config.augment that a config of pictures may leave out.

    mean and deviation are not among them: theirs depend on the model's channels.
    """
    shape = {field.name: field.default for field in dataclasses.fields(Shape)}
    data = {name: shape[name] for name in ("crop_share", "resample", "max_pixels")}
    return {**DATA, **data}, dataclasses.asdict(Augment())
