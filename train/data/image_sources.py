"""Where pictures and their labels come from; nothing is decoded here.

    mnist                       10,000 embedded digits
    fashion-mnist               data/fashion-mnist, which `scripts.prepare fetch fashion-mnist` brings
    FOLDER                      folders named by class, in train/ and valid/ (or val/, test/) or at
                                once; or IDX files as MNIST has them; or Parquet or ArrayRecord files.
                                Hidden folders and files are left out, a test part beside a valid one, too
    FILE.npz                    x (or images) uint8 [N,H,W(,C)] and y (or labels); x_test, y_test
    FILE.parquet                columns image (bytes, or bytes in `bytes`) and label
    FILE.array_record           `tf.train.Example`s with image and label (TensorFlow Datasets')
    hub:OWNER/NAME[:CONFIG]     the hub's data sets, the extra `hub`

A label is a class's number or name, or a list of them (`config.data.task=multilabel`; in npz files
0 and 1 [N,C]): see `image_labels`.
"""

import dataclasses
import os
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from train.data import image_files, image_labels

FOLDER = Path(__file__).parent / "embedded"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HELD = ("valid", "val", "validation", "test", "testing")  # the first that there is
PART = re.compile(r"(?<![a-z])(train|training|valid|val|validation|test|testing)(?![a-z])")
MANY = re.compile(r"(\.[a-z_]+)(-\d+-of-\d+)?$")  # the suffix of a file, also of one of its shards


@dataclasses.dataclass
class Images:
    """N pictures: `raw(i)` gives bytes, a path or uint8 pixels, `place(i)` names picture i.

    targets: int32 [N], or float32 [N,C] of 0 and 1 where a picture may have many labels. pixels:
    uint8 [N,H,W,C] where all are at hand and of one size, else None. `raw` can be pickled.
    """

    source: str
    raw: Callable
    place: Callable
    targets: np.ndarray
    labels: tuple
    pixels: np.ndarray | None = None

    def __len__(self):
        return len(self.targets)

    def take(self, numbers) -> "Images":
        """Some of the pictures."""
        numbers = np.asarray(numbers)
        pixels = None if self.pixels is None else self.pixels[numbers]
        chosen = Chosen(self.raw, numbers), Chosen(self.place, numbers)
        return dataclasses.replace(
            self, raw=chosen[0], place=chosen[1], targets=self.targets[numbers], pixels=pixels
        )


@dataclasses.dataclass(frozen=True)
class Chosen:
    """`function(numbers[i])`; a class, so that it can be sent to a worker."""

    function: Callable
    numbers: np.ndarray

    def __call__(self, number):
        return self.function(int(self.numbers[number]))


@dataclasses.dataclass(frozen=True)
class Item:
    """`items[i]`."""

    items: object

    def __call__(self, number):
        return self.items[number]


@dataclasses.dataclass(frozen=True)
class Named:
    """Names a picture by its number in a source."""

    source: str

    def __call__(self, number):
        return f"{self.source}, picture {number}"


def read(source: str, many: bool = False) -> dict[str, Images]:
    """{"train": ..., and "valid" where the source has a held-out part}.

    many: labels are lists of classes. ValueError or FileNotFoundError say what is wrong.
    """
    if source == "mnist":
        return arrays(source, FOLDER / "mnist10k.npz", many)
    if source == "fashion-mnist":
        return _idx(Path("data/fashion-mnist"), source, many)
    if source.startswith("hub:"):
        return _columns(image_files.hub(source), source, many)
    path = Path(source)
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return arrays(source, path, many)
        kind = image_files.KINDS.get(_suffix(path))
        if not kind:
            known = ", ".join((".npz", *image_files.KINDS))
            raise ValueError(f"{source}: {path.suffix!r} holds no pictures; expected {known}")
        return _columns({"train": kind([path])}, source, many)
    if not path.is_dir():
        raise FileNotFoundError(
            f"no pictures at {source!r}: neither a file nor a folder, nor mnist or fashion-mnist"
        )
    return _folder(path, source, many)


def arrays(source: str, path, many: bool = False) -> dict[str, Images]:
    """The pictures of an npz file; pickled objects are not loaded."""
    held = _npz(path)
    made = {}
    for part, ending in (("train", ""), ("train", "_train"), ("valid", "_test")):
        names = [(x + ending, y + ending) for x, y in (("x", "y"), ("images", "labels"))]
        for x, y in names:
            if x in held and y in held:
                labels = made["train"].labels if part == "valid" and "train" in made else ()
                name = source if part == "train" else f"{source} ({x})"
                made[part] = in_memory(name, held[x], held[y], labels, many)
    if "train" not in made:
        raise ValueError(
            f"{path} has {', '.join(held) or 'nothing'}; expected x and y, or images and labels"
        )
    return made


def _npz(path) -> dict:
    """The arrays of an npz file; ValueError naming the file, whatever is wrong with it."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it holds one array without a name")
        with found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable npz file: {error}") from error
    except (zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def in_memory(source: str, pixels, targets, labels=(), many: bool = False) -> Images:
    """Pictures as uint8 [N,H,W] or [N,H,W,C]; ValueError for other arrays.

    labels: the classes of the training part, where this is the held-out one.
    """
    pixels, targets = np.asarray(pixels), np.asarray(targets)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise ValueError(
            f"{source} holds pictures as {pixels.dtype} {list(pixels.shape)}; expected uint8 "
            "[N,H,W] or [N,H,W,C]"
        )
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    count = len(targets) if targets.ndim else 1
    if count != len(pixels) or not len(pixels):
        raise ValueError(f"{source} has {len(pixels)} pictures and {count} labels")
    targets, labels = image_labels.numbered(source, targets, many, labels)
    return Images(source, Item(pixels), Named(source), targets, labels, pixels)


def _idx(path, source, many) -> dict[str, Images]:
    if not (path / "train-images-idx3-ubyte.gz").is_file() and source == "fashion-mnist":
        raise FileNotFoundError(
            f"{path} is not there; python -m scripts.prepare fetch fashion-mnist brings it"
        )
    made = {}
    for part, name in (("train", "train"), ("valid", "t10k")):
        x, y = (image_files.idx(path, f"{name}-{kind}") for kind in ("images", "labels"))
        if x is not None and y is not None:
            labels = made["train"].labels if part == "valid" and "train" in made else ()
            made[part] = in_memory(f"{source} ({name})", x, y, labels, many)
    if "train" not in made:
        raise ValueError(f"{path} has no files train-images-idx3-ubyte and train-labels-idx1-ubyte")
    return made


def _folder(path, source, many) -> dict[str, Images]:
    if any(path.glob("train-images*")):
        return _idx(path, source, many)
    found = [p for p in path.rglob("*") if _suffix(p) in image_files.KINDS and _seen(p, path)]
    for suffix, kind in image_files.KINDS.items():
        files = [p for p in sorted(found) if _suffix(p) == suffix and p.is_file()]
        if files:
            parts = _parts([(_part(p.relative_to(path)), p) for p in files])
            return _columns({part: kind(own) for part, own in parts.items()}, source, many)
    if many:
        raise image_labels.single(source)
    folders = {p.name.lower(): p for p in _folders(path)}
    train = next((folders[name] for name in ("train", "training") if name in folders), None)
    if train is None or not _folders(train):  # a class may have that name
        return {"train": _classes(path, None)}
    made = {"train": _classes(train, None)}
    held = next((folders[name] for name in HELD if name in folders), None)
    if held is not None:
        made["valid"] = _classes(held, made["train"].labels)
    return made


def _suffix(path) -> str:
    """In small letters: .parquet of x.PARQUET, .array_record of x.array_record-00000-of-00008."""
    found = MANY.search(path.name.lower())
    return found[1] if found else ""


def _seen(path, root) -> bool:
    """Whether a file or folder below `root` is no hidden one, nor in one, as .ipynb_checkpoints."""
    names = path.relative_to(root).parts
    return not any(name.startswith(".") or name == "__MACOSX" for name in names)


def _folders(path) -> list:
    return [p for p in sorted(path.iterdir()) if p.is_dir() and _seen(p, path)]


def _part(path) -> str:
    """The part that the last of a path's names speaks of: "train", or one of HELD."""
    for name in reversed(path.parts):
        if found := PART.search(name.lower()):
            return "train" if found[1].startswith("train") else found[1]
    return "train"


def _parts(files) -> dict:
    """{"train", "valid": files} of (part, file): the held-out part is the first of HELD that there is."""
    held = next((name for name in HELD if any(part == name for part, _ in files)), "")
    made = {"train": [p for part, p in files if part == "train"]}
    made["valid"] = [p for part, p in files if part == held]
    return {name: own for name, own in made.items() if own}


def _plain(name) -> str:
    """A name as it is written: composed, bytes that are no UTF-8 as \\xff."""
    text = os.fsencode(str(name)).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def _classes(path, labels) -> Images:
    """A folder of folders, one for each class; `labels` are the training part's."""
    folders, files, targets = _folders(path), [], []
    known = labels or tuple(_plain(p.name) for p in folders)
    for folder in folders:
        name = _plain(folder.name)
        if name not in known:
            raise ValueError(f"{_plain(folder)} is a class that the training part does not have")
        found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
        found = [str(p) for p in found if _seen(p, folder) and not p.is_dir()]
        if not found and labels is None:
            empty = f"{_plain(folder)} is a class without a picture ({' '.join(SUFFIXES[:4])} ...)"
            raise ValueError(f"{empty}; fill the folder or remove it")
        files += found
        targets += [known.index(name)] * len(found)
    if not files:
        raise ValueError(
            f"{path} has no folder of pictures; expected a folder for each class with files "
            f"{' '.join(SUFFIXES[:4])} ..."
        )
    place = Item([_plain(name) for name in files])
    return Images(str(path), Item(files), place, np.asarray(targets, np.int32), known)


def _columns(parts, source, many) -> dict[str, Images]:
    """Parts of (raw, labels as written, class names if known) with their labels numbered."""
    if "train" not in parts:
        raise ValueError(f"{source} has {', '.join(parts) or 'no part'}; expected a part train")
    made, labels = {}, parts["train"][2]
    for part in sorted(parts, key=lambda name: name != "train"):
        raw, values, known = parts[part]
        if not len(values):
            raise ValueError(f"{source} has no picture in its part {part}")
        place = Named(f"{source} ({part})")
        rows = image_labels.listed(values, many, place)
        labels = labels or image_labels.classes(rows, place)
        numbers = bool(known) or isinstance(labels[0], int)
        targets = image_labels.indexed(rows, labels, numbers, many, place)
        names = tuple(str(name) for name in labels)
        made[part] = Images(source, raw, place, targets, names)
    return made
