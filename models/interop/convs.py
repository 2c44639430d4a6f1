"""config.json of transformers' ResNet and EfficientNet <-> `Options`.

Theirs differ from the papers in this: inside ResNet's blocks the activation is ReLU, whatever
`hidden_act` says; EfficientNet pads by the kernel alone, with a list of blocks that are padded
symmetrically because their input is odd at the model's image size (`depthwise_padding`); a stage's first
block has no shortcut. Their `batch_norm_momentum` means TensorFlow's decay; the code gives it to torch,
where momentum is 1 - decay. We take it for the decay.
"""

from collections.abc import Mapping

from models.convnets import rounded
from models.efficientnet import gates, inner
from models.interop import fields
from models.interop.fields import act, get, labels, numbers
from models.interop.names_conv import blocks
from models.options import Options

FAMILY = {"resnet": "resnet", "efficientnet": "efficientnet"}
BODY = {"resnet": "ResNet", "efficientnet": "EfficientNet"}
FIELDS = {  # (their field, its other spelling, our option, their default)
    "resnet": (("num_channels", "", "channels", 3),),
    "efficientnet": (
        ("num_channels", "", "channels", 3),
        ("batch_norm_eps", "", "norm_eps", 1e-3),
        ("batch_norm_momentum", "", "norm_decay", 0.99),
        ("dropout_rate", "", "drop_head", 0.5),
        ("drop_connect_rate", "", "drop_path", 0.2),
        ("initializer_range", "", "init_std", 0.02),
    ),
}
# Options that the numbers of a trained net do not depend on.
FREE = ("norm_decay", "norm_unbiased", "zero_last", "drop_path")
_NAMES = {"gelu_tanh": "gelu_new", "identity": "linear"}
_WIDTHS = (1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0)
_PAPER = (16, 24, 40, 80, 112, 192, 320)


def _read_resnet(c: Mapping, o: dict) -> dict:
    depths = fields.blocks(numbers(c, "depths", (3, 4, 6, 3)), "depths")
    layer = get(c, "layer_type", "bottleneck", str)
    if layer not in ("basic", "bottleneck"):
        raise ValueError(f"config.json: layer_type is {layer!r:.60}; expected basic or bottleneck")
    first = 2 if get(c, "downsample_in_first_stage", False, bool) else 1
    return dict(
        kind="resnet", norm="batch", norm_eps=1e-5, init="he", init_std=0.01, pool="mean",
        depths=depths, widths=numbers(c, "hidden_sizes", (256, 512, 1024, 2048)),
        strides=(first, *[2] * (len(depths) - 1)), stem=(get(c, "embedding_size", 64, int),),
        stem_kernel=7, stem_stride=2, stem_pool=True, bottleneck=layer == "bottleneck",
        stride_early=get(c, "downsample_in_bottleneck", False, bool),
        act=act(c, "hidden_act", "relu"), inner_act="relu",
    )  # fmt: skip


def _read_efficientnet(c: Mapping, o: dict) -> dict:
    factor, unit = get(c, "width_coefficient", 2.0, float), get(c, "depth_divisor", 8, int)
    deeper = get(c, "depth_coefficient", 3.1, float)
    if unit < 1 or not 0 < factor < 1000 or not 0 < deeper < 1000:
        raise ValueError(
            f"config.json: width_coefficient={factor}, depth_coefficient={deeper} and depth_divisor="
            f"{unit} must be positive"
        )
    scale = lambda n: rounded(n * factor, unit)  # noqa: E731
    repeats = numbers(c, "num_block_repeats", (1, 2, 2, 3, 3, 4, 1))
    depths = fields.blocks(
        tuple(-int(-(deeper * n) // 1) for n in repeats), "num_block_repeats times its factor"
    )
    widths = tuple(map(scale, numbers(c, "out_channels", (16, 24, 40, 80, 112, 192, 320))))
    inputs = tuple(map(scale, numbers(c, "in_channels", (32, 16, 24, 40, 80, 112, 192))))
    stem, top = scale(32), scale(1280)
    if inputs != (stem, *widths[:-1]):
        raise ValueError(
            f"config.json: in_channels come to {inputs} channels; a stem of {stem} and out_channels "
            f"make it {(stem, *widths[:-1])}"
        )
    if get(c, "hidden_dim", 2560, int) != top:
        raise ValueError(
            f"config.json: hidden_dim is {c.get('hidden_dim')}; width_coefficient makes it {top}"
        )
    ratio = get(c, "squeeze_expansion_ratio", 0.25, float)
    if ratio <= 0:
        raise ValueError(f"config.json: squeeze_expansion_ratio = {ratio} is not supported")
    strides = numbers(c, "strides", (1, 2, 2, 2, 1, 2, 1))
    if not set(strides) <= {1, 2}:
        raise ValueError(f"config.json: strides are {list(strides)}; supported are 1 and 2")
    kernels = numbers(c, "kernel_sizes", (3, 3, 5, 3, 5, 5, 3))
    if (1, 2) in zip(kernels, strides, strict=False):  # theirs cuts the first row and column off
        raise ValueError(f"config.json: kernel_sizes are {list(kernels)}; 1 is not for stride 2")
    kinds = {"mean": "mean", "max": "max"}
    size = c.get("image_size", 600)
    found = dict(
        kind="efficientnet", norm="batch", depths=depths, widths=widths, strides=strides,
        kernels=kernels, expands=numbers(c, "expand_ratios", (1, 6, 6, 6, 6, 6, 6)),
        stem=(stem,), stem_kernel=3, stem_stride=2, top=top, squeeze=ratio, padding="kernel",
        first_skips=False,
        square=tuple(sorted(set(numbers(c, "depthwise_padding", ())))),
        act=act(c, "hidden_act", "swish"), pool=act(c, "pooling_type", "mean", kinds),
        image_size=size[0] if isinstance(size, list) and size else get(c, "image_size", 600, int),
    )  # fmt: skip
    return found


READ = {"resnet": _read_resnet, "efficientnet": _read_efficientnet}


def read_head(c: Mapping, names, o: dict) -> dict:
    """The head that the architecture states, or that the tensors tell where none is stated."""
    stated = c.get("architectures") or [""]
    stated = stated[0] if isinstance(stated, list) and isinstance(stated[0], str) else ""
    if stated and not stated.endswith(("ForImageClassification", "Model", "Backbone")):
        raise ValueError(f"config.json: architectures names {stated}, a head that is not supported")
    classify = stated.endswith("ForImageClassification") or any(
        name.startswith("classifier.") for name in names
    )
    return dict(head="classify", labels=labels(c)) if classify else dict(head="none")


def kind(o: Options) -> str:
    """The model_type that serves a net. ValueError where there is none."""
    if o.norm != "batch":
        raise ValueError(f"model.norm={o.norm!r} in a {o.kind}: the reference has no such model")
    if o.kind == "efficientnet" and not o.squeeze:
        raise ValueError("model.squeeze=0: the reference's efficientnet always has gates")
    return o.kind


def architecture(o: Options) -> str:
    """The end of the architecture's name."""
    return "ForImageClassification" if o.head == "classify" else "Model"


def idle(o: Options) -> list:
    """Options without effect on what a net computes."""
    found = ["image_size", "image_width", "expand_unit", "squeeze_nearest"]
    if o.head == "none":
        found += ["labels"]
    if o.kind == "resnet":
        found += ["kernels", "expands", "squeeze", "first_skips", "square"]
        return found if o.bottleneck else [*found, "stride_early"]
    return [*found, "bottleneck", "stride_early", "inner_act", "shortcut_pool"]


def effects(o: Options) -> dict:
    """What options that can say the same in several ways come to."""
    found = dict(inner_act=o.inner_act or o.act)
    if o.kind == "resnet":
        return found
    walk = tuple(blocks(o))
    padding, square = _padding(o)
    found.update(
        padding=padding, square=square,
        expands=tuple(inner(o, inputs, stage) for stage, _, inputs in walk),
        squeeze=tuple(gates(o, inputs, stage) for stage, _, inputs in walk) if o.squeeze else (),
        first_skips=o.first_skips and any(
            place == 0 and o.strides[stage] == 1 and inputs == o.widths[stage]
            for stage, place, inputs in walk
        ),
    )  # fmt: skip
    return found


def _padding(o: Options) -> tuple:
    """(rule, blocks padded symmetrically): TensorFlow's rule as transformers' at `o.image_size`.

    TensorFlow pads an odd side symmetrically at stride 2. If it is the stem's side, there is no such
    form, and the rule stays "same".
    """
    strided = [
        (number, stage) for number, (stage, place, _) in enumerate(blocks(o))
        if place == 0 and o.strides[stage] > 1
    ]  # fmt: skip
    if o.padding == "kernel":
        return "kernel", tuple(number for number, _ in strided if number in o.square)
    if o.padding == "symmetric" or o.image_size % 2 or set(o.strides) > {1, 2}:
        return o.padding, ()
    side, square = o.image_size // o.stem_stride, []
    for number, _ in strided:
        square += [number] if side % 2 else []
        side = (side + 1) // 2
    return "kernel", tuple(square)


def _write_resnet(o: Options) -> dict:
    return dict(
        depths=list(o.depths), hidden_sizes=list(o.widths), embedding_size=o.stem[-1],
        layer_type="bottleneck" if o.bottleneck else "basic", hidden_act=_NAMES.get(o.act, o.act),
        downsample_in_first_stage=o.strides[0] == 2, downsample_in_bottleneck=o.stride_early,
    )  # fmt: skip


def _write_efficientnet(o: Options) -> dict:
    factor, unit, channels = _channels(o)
    return dict(
        width_coefficient=factor, depth_coefficient=1.0, depth_divisor=unit, hidden_dim=o.top,
        in_channels=[32, *channels[:-1]], out_channels=channels, num_block_repeats=list(o.depths),
        kernel_sizes=list(o.kernels), strides=list(o.strides), expand_ratios=list(o.expands),
        depthwise_padding=list(_padding(o)[1]), squeeze_expansion_ratio=o.squeeze,
        hidden_act=_NAMES.get(o.act, o.act), pooling_type=o.pool, image_size=o.image_size,
    )  # fmt: skip


def _channels(o: Options) -> tuple:
    """(width coefficient, divisor, channels before scaling) that come to the net's channels.

    Their stem and last convolution are always 32 and 1,280 channels, scaled.
    """
    for factor in (*_WIDTHS, o.stem[-1] / 32):
        for unit in (8, 4, 2, 1, 16):
            scale = lambda n: rounded(n * factor, unit)  # noqa: B023, E731
            if scale(32) != o.stem[-1] or scale(1280) != o.top:
                continue
            found = [
                next(
                    (n for n in (*_PAPER, *_near(width / factor, unit)) if scale(n) == width), None
                )
                for width in o.widths
            ]
            if None not in found:
                return factor, unit, found
    raise ValueError(
        f"model.stem={o.stem} and model.top={o.top} are no multiple of the reference's 32 and 1,280"
    )


def _near(middle, reach):
    """Whole numbers around `middle`, the nearest first."""
    low = max(1, int(middle - reach))
    return sorted(range(low, int(middle + reach) + 2), key=lambda n: abs(n - middle))


WRITE = {"resnet": _write_resnet, "efficientnet": _write_efficientnet}
