"""Folders of timm's convolutional nets: config.json names an architecture, and what differs from it.

`arguments` turns one into what `models.interop.config` reads: a model_type "timm/CLASS" and the
arguments of that class (`models.interop.timm_convs`). There are ResNet-18 to 152 and their D forms,
EfficientNet-B0 to B7 and Lite0, each of these also as tf_...
"""

import re
from collections.abc import Mapping

from models.families_conv import FAMILIES
from models.interop import config, describe
from models.options import Options

_RESNET = r"resnet(18|34|50|101|152)(d?)"
_EFFICIENT = r"(tf_)?efficientnet_(b[0-7]|lite0)"
_NAMES = (
    *(f"resnet{n}{d}" for d in ("", "d") for n in (18, 34, 50, 101, 152)),
    *(
        f"{tf}efficientnet_{n}"
        for n in ("lite0", *(f"b{i}" for i in range(8)))
        for tf in ("", "tf_")
    ),
)


def known(c: Mapping) -> bool:
    """Whether a config.json names an architecture of this module's kind, of these sizes or others."""
    return re.match(r"(tf_)?(resnet|efficientnet)", str(c.get("architecture"))) is not None


def arguments(c: Mapping) -> dict:
    """A folder's config.json as one that `config.read` understands.

    ValueError names an architecture that we do not have.
    """
    name = str(c.get("architecture"))
    more = c.get("model_args") or {}
    if not isinstance(more, Mapping):
        raise ValueError(f"config.json: model_args is {more!r:.60}; expected an object")
    return {**_arguments(name), "num_classes": c.get("num_classes", 1000), **more}


def _arguments(name: str) -> dict:
    """The class and arguments of an architecture. ValueError for an unknown one."""
    if found := re.fullmatch(_RESNET, name):
        row = FAMILIES["resnet"][found[1]]
        block = "Bottleneck" if row.get("bottleneck") else "BasicBlock"
        more = dict(stem_width=32, stem_type="deep", avg_down=True) if found[2] else {}
        return dict(model_type="timm/ResNet", block=block, layers=list(row["depths"]), **more)
    if found := re.fullmatch(_EFFICIENT, name):
        row = FAMILIES["efficientnet"][found[2]]
        more = dict(pad_type="same", bn_eps=1e-3) if found[1] else {}
        return dict(
            model_type="timm/EfficientNet", arch_def=_strings(row), stem_size=row["stem"][0],
            num_features=row["top"], act_layer=row["act"], **more,
        )  # fmt: skip
    raise ValueError(
        f"config.json: architecture is {name!r:.60}; supported are {', '.join(_NAMES)}"
    )


def _strings(row: Mapping) -> list:
    """arch_def of a row."""
    names = ("depths", "kernels", "strides", "expands", "widths")
    gate = f"_se{row['squeeze']}" if row["squeeze"] else ""
    return [
        [f"{'ds' if e == 1 else 'ir'}_r{r}_k{k}_s{s}_e{e}_c{c}{gate}"]
        for r, k, s, e, c in zip(*(row[name] for name in names), strict=True)
    ]


def kind(o: Options) -> str:
    """The table of names that serves a net. ValueError for what timm's classes are not read for."""
    kinds = {"resnet": "timm/ResNet", "efficientnet": "timm/EfficientNet"}
    if o.kind not in kinds:
        raise ValueError(f"a {o.kind} is not written in timm's spelling")
    return kinds[o.kind]


def spelled(o: Options) -> tuple:
    """(model_type, config.json) of a net, as `describe.spelled` for the others."""
    return kind(o), write(o)


def write(o: Options) -> dict:
    """The config.json of a net. ValueError where no architecture of timm's is this net, naming an
    option that differs from the nearest."""
    wanted, fault = describe.canonical(o), None
    for name in _NAMES:
        if kind(o) != _arguments(name)["model_type"]:
            continue
        c = {"architecture": name, "num_classes": o.labels if o.head == "classify" else 0}
        c["model_args"] = _own(o, name)
        again = describe.canonical(config.read(arguments(c)))
        differs = [option for option in wanted if wanted[option] != again.get(option)]
        if not differs:
            return c
        if fault is None or len(differs) < fault[0]:
            fault = len(differs), name, differs[0], again.get(differs[0])
    _, name, option, other = fault
    raise ValueError(
        f"model.{option} = {wanted[option]!r} cannot be written in timm's spelling; its {name} has "
        f"{other!r} there"
    )


def _own(o: Options, name: str) -> dict:
    """The arguments that say what differs from an architecture."""
    found = dict(in_chans=o.channels)
    if o.pool == "max":
        found["global_pool"] = "max"
    if o.kind == "efficientnet":
        return {**found, "bn_eps": o.norm_eps}
    factor = 4 if o.bottleneck else 1
    if o.shortcut_pool == name.endswith("d") and o.bottleneck == (
        "Bottleneck" in str(_arguments(name))
    ):
        found.update(layers=list(o.depths), channels=[n // factor for n in o.widths])
        found.update(act_layer=o.act)
        if len(o.stem) == 3:
            found.update(stem_width=o.stem[1])
    return found
