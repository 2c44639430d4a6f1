"""The columns of the table that models of images have beside those of sequences."""

import dataclasses
import math

from models import convnets


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What is read: images [B,H,W,C]. `models.options.Options` takes these columns up.

    The tables of positions are made for the grid of patches of images of `image_size`; images of
    another size are read with tables that are resized.
    """

    image_size: int = 224  # the side in pixels that the tables are made for
    channels: int = 3  # C
    image_width: int = 0  # of images that are not square, whose height is `image_size`
    # patches and tokens
    patch: int = 16  # the side in pixels of a patch
    patch_width: int = 0  # of patches that are not square, whose height is `patch`
    patch_bias: bool = True
    cls_token: bool = True
    dist_token: bool = False  # DeiT's, behind CLS
    registers: int = 0  # tokens that nothing reads, behind the two above
    mask_token: bool = False  # learned; it takes the place of the patches that `masked` marks
    position_tokens: bool = True  # the tokens before the patches have positions, too
    resize: str = "bicubic"  # how tables of positions are resized: see `models.grids.matrix`
    relative_shared: bool = False  # a 2-D table of biases for all layers (BEiT's pre-training)
    relative_layers: bool = False  # a table in each layer (BEiT's fine-tuning, Swin)
    relative_turned: bool = False  # such a table is read as if the grid's sides were exchanged
    # blocks
    mlp: bool = True  # a feed-forward branch
    mlp_ratio: float = 4.0  # feed-forward width / width, rounded down, where `ff` is 0
    residual: bool = True
    layer_scale: float = 0.0  # first value of learned factors of each branch's channels; 0: none
    drop_path: float = 0.0  # of the last block's branches; it rises from 0 at the first
    # heads
    pool_norm: bool = False  # a norm on the pooled state
    pool_width: int = 0  # of the pooler's output; 0: `width`
    stride: int = 0  # pixels that the pixel head makes of a token, each way; 0: those of its patch
    init_tokens: float = 0.02  # deviation of the tokens' first values
    # Swin: the sizes of the table are its first stage's, each later stage's is twice as wide
    depths: tuple = ()  # blocks of each stage
    stage_heads: tuple = ()
    side: int = 7  # tokens of a window's side
    windowing: str = "square"  # or "axes", see `models.windows`
    still: tuple = ()  # stages, counted from 0, whose windows never move
    patch_eps: float = 1e-5  # of the norms behind patches and before merging

    @property
    def patch_sides(self) -> tuple:
        """Height and width of a patch in pixels."""
        return self.patch, self.patch_width or self.patch

    @property
    def grid(self) -> tuple:
        """Rows and columns of the grid of patches that the tables are made for."""
        height, width = self.patch_sides
        return self.image_size // height, (self.image_width or self.image_size) // width

    @property
    def relative_grid(self) -> tuple:
        """Rows and columns of the grid that a table of relative biases is read for."""
        return self.grid[::-1] if self.relative_turned else self.grid

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches."""
        return self.cls_token + self.dist_token + self.registers


def stage(o, number: int):
    """The options of the stack of one of Swin's stages: twice the width and the patch of the one
    before it, and no head."""
    scale = 2**number
    height, width = o.patch_sides
    high, wide = o.image_size, o.image_width or o.image_size
    return o.replace(
        image_size=max(high, height * scale), image_width=max(wide, width * scale),
        layers=o.depths[number], depths=(o.depths[number],), stage_heads=(o.stage_heads[number],),
        width=o.width * scale, heads=o.stage_heads[number], patch=height * scale,
        patch_width=width * scale, head="none", labels=0, still=(),
        pattern=("global",) if number in o.still else o.pattern,
    )  # fmt: skip


def table_sides(o) -> tuple:
    """The sides of the window that a stage's table of biases is made for, see `models.windows`."""
    if o.windowing == "square":
        return o.side, o.side
    return tuple(min(n, o.side) for n in o.grid)


def letters(o) -> dict:
    """The sizes that the rename tables need, see `models.interop.names_vision`."""
    if o.kind not in ("vit", "swin"):
        return {}
    sides, deepest = (table_sides(o), max(len(o.depths) - 1, 0)) if o.depths else (o.grid, 0)
    pairs = math.prod(2 * side - 1 for side in sides) + 3 * o.prefix
    counted = o.prefix * o.position_tokens + math.prod(o.grid)
    stride = o.stride or o.patch << deepest
    height, width = o.patch_sides
    return dict(
        X=o.channels, I=height, J=width, N=counted, Q=pairs, L=o.registers, A=stride, B=stride,
        W=o.width << deepest, Y=2 * o.width, Z=4 * o.width,
    )  # fmt: skip


def check(o):
    """ValueError, naming the option, for what a model of images cannot be, or what only it has."""
    for name in ("image_size", "channels", "patch", "side"):
        if getattr(o, name) < 1:
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected at least 1")
    for name in ("image_width", "patch_width", "registers", "pool_width", "stride"):
        if getattr(o, name) < 0:
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected 0 or more")
    for name in ("layer_scale", "mlp_ratio"):
        if not 0 <= getattr(o, name) < 1e4:  # false for what is no number, too
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected 0 or more")
    if o.hidden < 1:
        raise ValueError(f"model.mlp_ratio={o.mlp_ratio} of model.width={o.width} leaves no unit")
    if o.kind not in ("vit", "swin"):
        for name in ("relative_shared", "relative_layers", "depths", "stage_heads", "still"):
            if getattr(o, name) and (name != "depths" or o.kind not in convnets.KINDS):
                raise ValueError(f"model.{name} is not for model.kind={o.kind!r}")
        if o.positions == "sinusoidal_2d":
            raise ValueError(f"model.positions='sinusoidal_2d' is not for model.kind={o.kind!r}")
        return
    if o.positions not in ("learned", "sinusoidal_2d", "none"):
        raise ValueError(
            f"model.positions is {o.positions!r}; patches know learned, sinusoidal_2d and none"
        )
    if o.positions == "sinusoidal_2d" and o.width % 4:
        raise ValueError(f"sinusoidal_2d positions need a width that 4 divides, not {o.width}")
    for name in ("causal", "cross", "experts", "windows", "embed_width"):
        if getattr(o, name):
            raise ValueError(f"model.{name} is not for model.kind={o.kind!r}")
    if o.patch > o.image_size or o.patch_sides[1] > (o.image_width or o.image_size):
        raise ValueError(f"patches of {o.patch_sides} pixels are larger than model.image_size")
    _vit(o) if o.kind == "vit" else _swin(o)


def _vit(o):
    for name in ("depths", "stage_heads", "still"):
        if getattr(o, name):
            raise ValueError(f"model.{name} is for model.kind='swin'")
    if (o.relative_shared or o.relative_layers) and o.prefix != 1:
        raise ValueError(f"relative_shared and relative_layers need one token, not {o.prefix}")
    if o.head == "distilled" and not (o.cls_token and o.dist_token):
        raise ValueError("model.head='distilled' needs model.cls_token and model.dist_token")
    if o.pool == "first" and not o.cls_token and o.head in ("classify", "none"):
        raise ValueError("model.pool='first' reads model.cls_token; without one, pool the mean")


def _swin(o):
    for name in ("depths", "stage_heads"):
        value = getattr(o, name)
        if not value or any(type(n) is not int or n < 1 for n in value):
            raise ValueError(
                f"model.{name} is {value!r}; expected a positive number for each stage"
            )
    if any(stage not in range(len(o.depths)) for stage in o.still):
        raise ValueError(f"model.still is {o.still!r}; expected numbers of stages, from 0 on")
    if len(o.depths) != len(o.stage_heads):
        raise ValueError(f"model.depths={o.depths} and model.stage_heads={o.stage_heads} differ")
    if o.layers != sum(o.depths) or o.heads != o.stage_heads[0]:
        raise ValueError(
            f"model.layers={o.layers} and model.heads={o.heads} must be the sum of "
            f"model.depths={o.depths} and the first of model.stage_heads={o.stage_heads}"
        )
    for stage, heads in enumerate(o.stage_heads):
        if (o.width << stage) % heads:
            raise ValueError(f"{heads} of model.stage_heads does not divide {o.width << stage}")
    for name in ("dist_token", "registers", "relative_shared", "share_groups", "ff", "head_size"):
        if getattr(o, name):
            raise ValueError(f"model.{name} is not for model.kind='swin'; see mlp_ratio for ff")
    if o.pool != "mean" or o.cls_token:
        raise ValueError("model.kind='swin' has cls_token=False and pool='mean'")
