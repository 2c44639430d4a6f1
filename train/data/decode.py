"""From the bytes of a picture to pixels, with one policy for what is wrong with them.

A picture that cannot be read, has more than `max_pixels`, or is of a mode whose range of values is
unknown raises BadImage, which names it. What a stream does then is `config.data.bad`: "error" (the
default) ends the run with that sentence, "skip" takes the next good picture and counts.

Modes: black and white, grey, palette, YCbCr, CMYK and RGB become grey (channels 1) or RGB (3) as
Pillow converts them; transparency is dropped and EXIF's rotation ignored, as torchvision and timm do.
16-bit, 32-bit, float, LAB and HSV pictures are refused: Pillow would clip them in silence.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK")
MAX_PIXELS = 100_000_000  # 10,000 x 10,000
# What Pillow's readers raise for files that are damaged.
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, MemoryError, LookupError, RuntimeError, TypeError,
    AttributeError, AssertionError, ArithmeticError, struct.error, zlib.error,
)  # fmt: skip


class BadImage(ValueError):
    """A picture that cannot be used; the message names it."""


def decode(raw, channels: int, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture of mode "L" or "RGB" from encoded bytes, a path or uint8 [H,W] or [H,W,C].

    Raises BadImage. Only the header is read before the number of pixels is checked.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    if isinstance(raw, np.ndarray):
        return _array(raw, where).convert(mode)
    if not isinstance(raw, (bytes, str, Path)):
        raise BadImage(f"{where} has no bytes of a picture: it holds a {type(raw).__name__}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw)
        if picture.format == "EPS":
            raise BadImage(f"{where} is PostScript, a program that Pillow would have run")
        width, height = picture.size
        if width * height > max_pixels:
            raise BadImage(
                f"{where} has {width} x {height} pixels, more than config.data.max_pixels="
                f"{max_pixels}"
            )
        if picture.mode not in MODES:
            raise BadImage(
                f"{where} is of mode {picture.mode!r}, whose range of values is not known; "
                "expected 8-bit grey, palette or colour"
            )
        if picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
            picture = picture.convert("RGBA")
        return picture.convert(mode)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"{where} is too large: {error}") from None
    except UnidentifiedImageError:
        raise BadImage(f"{where} is not a picture that Pillow can read") from None
    except DAMAGED as error:
        raise BadImage(f"{where} is damaged: {error or type(error).__name__}") from None


def _array(pixels, where) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)
    ):
        raise BadImage(
            f"{where} is {pixels.dtype} {list(pixels.shape)}; expected uint8 [H,W] or [H,W,3]"
        )
    return Image.fromarray(pixels)


def pixels(picture: Image.Image) -> np.ndarray:
    """uint8 [H,W,C] of a picture of mode "L" or "RGB"."""
    made = np.asarray(picture, np.uint8)
    return made[..., None] if made.ndim == 2 else made
