"""What a folder says beside its tensors: names of classes, the kind of problem, how pixels are made.

No number of the model depends on it, but what its answers are called does: `hf.load` reads it and
`hf.export` writes it, for the reference library's pipelines as for ours.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from models.interop import untrusted
from models.options import Options

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
CLASSES = 10**6  # no folder names more


@dataclasses.dataclass(frozen=True)
class About:
    """Empty where a folder says nothing.

    Attributes:
        labels: the names of the classes, in the order of the scores.
        problem: one of PROBLEMS.
        mean, deviation: of pixels from 0 to 1, a number a channel.
        crop: the share of the shorter side that is cut out of the centre; 0: the whole is squashed.
        resample: Pillow's number of the filter (3 is bicubic).
    """

    labels: tuple = ()
    problem: str = ""
    mean: tuple = ()
    deviation: tuple = ()
    crop: float = 0.0
    resample: int = 3


def read(folder: Path, c: Mapping, spelled: Mapping) -> About:
    """What a reference or timm folder says. ValueError names what is malformed.

    c: its config.json; spelled: that in the reference's form, where it is timm's.
    """
    found = dict(labels=_names(spelled) or _strings(c.get("label_names")))
    if spelled.get("problem_type") in PROBLEMS:
        found["problem"] = spelled["problem_type"]
    file = folder / "preprocessor_config.json"
    if file.is_file():
        found |= _pixels(untrusted.read_json(file))
    elif isinstance(c.get("pretrained_cfg"), Mapping):
        told = c["pretrained_cfg"]
        found |= _scale(told.get("mean"), told.get("std"), "pretrained_cfg")
        found["crop"] = _share(told.get("crop_pct"))
    return About(**found)


def _names(c):
    """The names in id2label; () for none, and for the reference's own LABEL_0, LABEL_1..."""
    named = c.get("id2label")
    if not isinstance(named, Mapping) or not 0 < len(named) <= CLASSES:
        return ()
    found = tuple(named.get(str(i)) for i in range(len(named)))
    if any(type(name) is not str for name in found):
        return ()
    return () if all(name == f"LABEL_{i}" for i, name in enumerate(found)) else found


def _strings(names):
    listed = isinstance(names, list) and 0 < len(names) <= CLASSES
    return tuple(names) if listed and all(type(name) is str for name in names) else ()


def _pixels(told) -> dict:
    """What a preprocessor_config.json says of the scale and the crop."""
    found = _scale(told.get("image_mean"), told.get("image_std"), "preprocessor_config.json")
    if told.get("do_normalize") is False:
        found = {}
    size, middle = told.get("size"), told.get("crop_size")
    if told.get("do_center_crop") and isinstance(size, Mapping) and isinstance(middle, Mapping):
        short, cut = size.get("shortest_edge"), middle.get("height")
        if type(short) is int and type(cut) is int and short > 0:
            found["crop"] = _share(cut / short)
    elif "crop_pct" in told:
        found["crop"] = _share(told["crop_pct"])
    if type(told.get("resample")) is int and 0 <= told["resample"] <= 5:
        found["resample"] = told["resample"]
    return found


def _scale(mean, deviation, where) -> dict:
    if not mean or not deviation:
        return {}
    for name, given in (("mean", mean), ("std", deviation)):
        numbers = isinstance(given, list) and len(given) <= 4
        if not numbers or any(type(x) not in (int, float) or not math.isfinite(x) for x in given):
            raise ValueError(f"{where}: the {name} is {given!r:.80}; expected a number a channel")
    if len(mean) != len(deviation) or min(deviation) <= 0:
        raise ValueError(
            f"{where}: the std {deviation!r:.80} does not go with the mean {mean!r:.80}"
        )
    return dict(mean=tuple(map(float, mean)), deviation=tuple(map(float, deviation)))


def _share(value) -> float:
    return float(value) if type(value) in (int, float) and 0 < value <= 1 else 0.0


def fields(about: About, count: int) -> dict:
    """What config.json says of `count` classes. ValueError if their names are more or fewer."""
    names = about.labels or tuple(f"LABEL_{i}" for i in range(count))
    if len(names) != count:
        raise ValueError(f"{len(names)} names for the model's {count} classes")
    made = dict(id2label={str(i): name for i, name in enumerate(names)})
    made["label2id"] = {name: i for i, name in enumerate(names)}
    return made | ({"problem_type": about.problem} if about.problem else {})


def timm(about: About, c: dict) -> dict:
    """A config.json of timm's with the names and the scale, where they are known."""
    c = dict(c)
    if about.labels:
        c["label_names"] = list(about.labels)
    if about.mean:
        scale = dict(mean=list(about.mean), std=list(about.deviation))
        scale |= {"crop_pct": about.crop} if about.crop else {}
        c["pretrained_cfg"] = {**c.get("pretrained_cfg", {}), **scale}
    return c


def preprocessor(about: About, o: Options) -> dict | None:
    """The preprocessor_config.json that makes our pixels; None where their scale is not known."""
    if not about.mean:
        return None
    side = dict(height=o.image_size, width=getattr(o, "image_width", 0) or o.image_size)
    made = dict(
        do_resize=True, resample=about.resample, do_rescale=True, rescale_factor=1 / 255,
        do_normalize=True, image_mean=list(about.mean), image_std=list(about.deviation),
    )  # fmt: skip
    if not about.crop:
        return dict(image_processor_type="ViTImageProcessor", size=side, **made)
    short = round(o.image_size / about.crop)
    return dict(
        image_processor_type="CLIPImageProcessor", size={"shortest_edge": short},
        do_center_crop=True, crop_size=side, do_convert_rgb=o.channels == 3, **made,
    )  # fmt: skip
