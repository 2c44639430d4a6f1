"""The columns of the table that convolutional nets have beside those of all models, and their checks."""

import dataclasses

KINDS = ("resnet", "efficientnet")


@dataclasses.dataclass(frozen=True)
class ConvNets:
    """How the stages of a convolutional net are built. `models.options.Options` takes these up.

    A net is a stem, stages of blocks at one resolution each, and a head. What only one of the two kinds
    of block has stands under it; see `models.resnet` and `models.efficientnet`.
    """

    # stages: one number for each
    depths: tuple = ()  # blocks
    widths: tuple = ()  # channels that a stage gives
    strides: tuple = ()  # of its first block
    # the convolutions before them, all but the first of stride 1
    stem: tuple = (64,)  # channels
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: bool = False  # a max-pool 3x3 of stride 2 after them
    # residual blocks (He et al. 2015)
    bottleneck: bool = False  # 1x1, 3x3, 1x1 with a quarter of the channels inside; else 3x3, 3x3
    stride_early: bool = False  # the stride is that of a bottleneck's 1x1, as in the paper, not 3x3
    inner_act: str = ""  # inside a block; "": as `act`
    shortcut_pool: bool = (
        False  # a shortcut's stride is an average pool's (He et al. 2018, ResNet-D)
    )
    # inverted residual blocks (Tan and Le 2019): the first two have one number for each stage
    kernels: tuple = ()  # sides of the depthwise kernels
    expands: tuple = ()  # factors from a block's input to its inner channels; 1: no such convolution
    expand_unit: int = 1  # inner channels are rounded to multiples of this
    squeeze: float = 0.0  # a gate's channels, a share of the block's input; 0: no gates
    squeeze_nearest: bool = False  # timm's rounding, of inner channels, not the authors', down
    first_skips: bool = True  # also a stage's first block has a shortcut if its shapes allow one
    padding: str = "symmetric"  # of strided convolutions: see `models.convolution.pads`
    square: tuple = ()  # with "kernel": numbers of the blocks that are padded symmetrically
    top: int = 0  # channels of a last convolution 1x1; 0: there is none
    # norms and depth
    norm_decay: float = 0.9  # of the running statistics of batch normalisation
    norm_unbiased: bool = True  # the running variance is divided by n - 1, as torch does, not by n
    zero_last: bool = False  # the last norm of a residual block starts at 0 (Goyal et al. 2017)
    drop_path: float = 0.0  # rate of dropping whole branches, rising with depth (Huang et al. 2016)


def check(o):
    """ValueError, naming the option, for what no convolutional net can be, or what only they have."""
    if o.kind not in KINDS:
        if o.norm == "batch" and o.kind in ("decoder", "encoder", "encdec"):
            raise ValueError(f"model.norm='batch' is for models of images, not for a {o.kind}")
        if o.pool == "max":
            raise ValueError(f"model.pool='max' is for convolutional nets, not for a {o.kind}")
        return
    if o.norm == "rms":
        raise ValueError(f"model.norm='rms' is not for a {o.kind}; expected 'batch' or 'layer'")
    if o.pool not in ("mean", "max"):
        raise ValueError(f"model.pool={o.pool!r} is not for a {o.kind}; expected 'mean' or 'max'")
    if not 0.0 <= o.norm_decay < 1.0:
        raise ValueError(f"model.norm_decay is {o.norm_decay}; expected 0 <= decay < 1")
    stages = ("depths", "widths", "strides")
    stages += ("kernels", "expands") if o.kind == "efficientnet" else ()
    for name in stages:
        found = getattr(o, name)
        if len(found) != len(o.depths) or not found:
            raise ValueError(
                f"model.{name} is {found!r}; expected a number for each of the stages that "
                f"model.depths={o.depths!r} has"
            )
    for name in (*stages, "stem"):
        kinds = (int, float) if name == "expands" else (int,)
        if any(type(n) not in kinds or n < 1 for n in getattr(o, name)):
            raise ValueError(f"model.{name} is {getattr(o, name)!r}; expected positive numbers")
    if not o.stem:
        raise ValueError("model.stem is empty; expected the channels of at least one convolution")
    for name in ("stem_kernel", "stem_stride", "expand_unit"):
        if getattr(o, name) < 1:
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected at least 1")
    if o.top < 0 or not 0.0 <= o.squeeze <= 1.0:
        raise ValueError(
            f"model.top={o.top} and model.squeeze={o.squeeze}; expected 0 or more, the latter at most 1"
        )
    if o.kind == "resnet" and o.bottleneck and min(o.widths) < 4:
        raise ValueError(f"model.widths={o.widths!r} of bottlenecks must be at least 4")
    even = [k for k in (*o.kernels, o.stem_kernel) if k % 2 == 0]
    if even:
        raise ValueError(f"convolutions have odd kernels, not {even[0]}; see model.kernels")


def rounded(channels: float, unit: int = 8) -> int:
    """Channels as EfficientNet's authors round them: to a multiple of `unit`, not below 90 %."""
    found = max(unit, int(channels + unit / 2) // unit * unit)
    return found + unit if found < 0.9 * channels else found
