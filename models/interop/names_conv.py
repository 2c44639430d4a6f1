"""The names of convolutional nets in checkpoints of transformers and timm (torchvision's, for ResNet).

A net is walked once, in `units`; each spelling only says what a unit of the walk is called. Kernels are
[out,in,k,k] there and [k,k,in,out] here, where a depthwise kernel has an input of one channel. Running
statistics are in the collection `batch_stats`.
"""

import re
from collections.abc import Callable, Iterator

from models.efficientnet import gates, inner
from models.interop.rename import Line, Table
from models.options import Options


def units(o: Options) -> Iterator[tuple]:
    """(path, kernel, inputs, outputs) of every convolution with its norm, in order."""
    inputs = o.channels
    for i, out in enumerate(o.stem):
        yield f"stem/{i}", o.stem_kernel, inputs, out
        inputs = out
    for stage, place, inputs in blocks(o):
        found = _residual if o.kind == "resnet" else _inverted
        for name, *rest in found(o, stage, inputs, o.strides[stage] if place == 0 else 1):
            yield f"stages/{stage}/{place}/{name}", *rest
    if o.top:
        yield "top", 1, o.widths[-1], o.top


def blocks(o: Options) -> Iterator[tuple]:
    """(stage, place in it, channels of the input) of every block, in order."""
    inputs = o.stem[-1]
    for stage, depth in enumerate(o.depths):
        for place in range(depth):
            yield stage, place, inputs
            inputs = o.widths[stage]


def _residual(o, stage, inputs, stride):
    out = o.widths[stage]
    if o.bottleneck:
        yield from (
            ("a", 1, inputs, out // 4),
            ("b", 3, out // 4, out // 4),
            ("c", 1, out // 4, out),
        )
    else:
        yield from (("a", 3, inputs, out), ("b", 3, out, out))
    if inputs != out or stride != 1:
        yield "shortcut", 1, inputs, out


def _inverted(o, stage, inputs, _):
    width = inner(o, inputs, stage)
    if o.expands[stage] != 1:
        yield "expand", 1, inputs, width
    yield "depth", o.kernels[stage], 1, width
    yield "project", 1, width, o.widths[stage]


def walk(spell: Callable, head: str) -> Callable:
    """(options, prefix) -> every line of a net whose last layer is called `head`.

    spell(options, path) gives two names, in which `@` stands for the prefix: of a unit's convolution and
    norm, or of a gate's two layers.
    """

    def lines(o: Options, prefix: str) -> list:
        names = lambda path: [name.replace("@", prefix) for name in spell(o, path)]  # noqa: E731
        found = []
        for path, kernel, inputs, outputs in units(o):
            conv, norm = names(path)
            found += _layer(f"{path}/conv", conv, kernel, inputs, outputs, False)
            found += _norm(f"{path}/norm", norm, outputs)
        for stage, place, inputs in blocks(o) if o.kind == "efficientnet" and o.squeeze else ():
            outer, middle = inner(o, inputs, stage), gates(o, inputs, stage)
            reduce, expand = names(path := f"stages/{stage}/{place}/gate")
            found += _layer(f"{path}/reduce", reduce, 1, outer, middle, True)
            found += _layer(f"{path}/expand", expand, 1, middle, outer, True)
        if o.head == "classify":
            sizes = (("D", o.top or o.widths[-1]), ("C", o.outputs))
            found.append(Line(("score/kernel",), (f"{head}.weight",), "C D -> D C", sizes))
            found.append(Line(("score/bias",), (f"{head}.bias",), "C -> C", sizes))
        return found

    return lines


def _layer(ours, theirs, kernel, inputs, outputs, bias):
    sizes = (("k", kernel), ("l", kernel), ("I", inputs), ("O", outputs))
    yield Line((f"{ours}/kernel",), (f"{theirs}.weight",), "O I k l -> k l I O", sizes)
    if bias:
        yield Line((f"{ours}/bias",), (f"{theirs}.bias",), "O -> O", sizes)


def _norm(ours, theirs, size):
    sizes, held = (("O", size),), dict(collection="batch_stats")
    yield Line((f"{ours}/scale",), (f"{theirs}.weight",), "O -> O", sizes)
    yield Line((f"{ours}/bias",), (f"{theirs}.bias",), "O -> O", sizes)
    yield Line((f"{ours}/mean",), (f"{theirs}.running_mean",), "O -> O", sizes, **held)
    yield Line((f"{ours}/var",), (f"{theirs}.running_var",), "O -> O", sizes, **held)
    count = f"{theirs}.num_batches_tracked"
    yield Line((f"{ours}/count",), (count,), " -> ", (), counter=True, **held)


def _parts(path):
    """(stage, place, name) of a path inside the stages, or None."""
    found = re.fullmatch(r"stages/(\d+)/(\d+)/(\w+)", path)
    return found and (int(found[1]), int(found[2]), found[3])


def _hf_resnet(o, path):
    stem = "@embedder.embedder"
    if at := _parts(path):
        stage, place, name = at
        layer = "shortcut" if name == "shortcut" else f"layer.{'abc'.index(name)}"
        stem = f"@encoder.stages.{stage}.layers.{place}.{layer}"
    return f"{stem}.convolution", f"{stem}.normalization"


_HF_BLOCK = {
    "expand": ("expansion.expand_conv", "expansion.expand_bn"),
    "depth": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
    "gate": ("squeeze_excite.reduce", "squeeze_excite.expand"),
    "project": ("projection.project_conv", "projection.project_bn"),
}


def _hf_efficientnet(o, path):
    if path == "top":
        return "@encoder.top_conv", "@encoder.top_bn"
    if not (at := _parts(path)):
        return "@embeddings.convolution", "@embeddings.batchnorm"
    number = sum(o.depths[: at[0]]) + at[1]
    return tuple(f"@encoder.blocks.{number}.{name}" for name in _HF_BLOCK[at[2]])


def _timm_resnet(o, path):
    if not (at := _parts(path)):
        number, last = int(path.split("/")[1]), len(o.stem) - 1
        if not last:
            return "conv1", "bn1"
        return f"conv1.{3 * number}", "bn1" if number == last else f"conv1.{3 * number + 1}"
    block = f"layer{at[0] + 1}.{at[1]}"
    if at[2] == "shortcut":
        first = int(o.shortcut_pool)
        return f"{block}.downsample.{first}", f"{block}.downsample.{first + 1}"
    number = "abc".index(at[2]) + 1
    return f"{block}.conv{number}", f"{block}.bn{number}"


def _timm_efficientnet(o, path):
    if path == "top":
        return "conv_head", "bn2"
    if not (at := _parts(path)):
        return "conv_stem", "bn1"
    block, plain = f"blocks.{at[0]}.{at[1]}", o.expands[at[0]] == 1
    if at[2] == "gate":
        return f"{block}.se.conv_reduce", f"{block}.se.conv_expand"
    number = ("expand", "depth", "project").index(at[2]) + (not plain)
    conv = {"expand": "pw", "depth": "dw", "project": "pw" if plain else "pwl"}[at[2]]
    return f"{block}.conv_{conv}", f"{block}.bn{number}"


_PTH_BLOCK = {
    "expand": ("_expand_conv", "_bn0"),
    "depth": ("_depthwise_conv", "_bn1"),
    "gate": ("_se_reduce", "_se_expand"),
    "project": ("_project_conv", "_bn2"),
}


def _pth_efficientnet(o, path):
    if path == "top":
        return "_conv_head", "_bn1"
    if not (at := _parts(path)):
        return "_conv_stem", "_bn0"
    number = sum(o.depths[: at[0]]) + at[1]
    return tuple(f"_blocks.{number}.{name}" for name in _PTH_BLOCK[at[2]])


def _table(prefix, spell, head):
    return Table((), prefix, "", "", walk=walk(spell, head))


TABLES = {
    "resnet": _table("resnet.", _hf_resnet, "classifier.1"),
    "efficientnet": _table("efficientnet.", _hf_efficientnet, "classifier"),
    "timm/ResNet": _table("", _timm_resnet, "fc"),
    "timm/EfficientNet": _table("", _timm_efficientnet, "classifier"),
    "pth/EfficientNet": _table("", _pth_efficientnet, "_fc"),
}
