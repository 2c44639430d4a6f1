"""One frozen description of a model: every column of the table of families.

A family is a row of values for these columns (`models/families.py`); every module has the one field
`o: Options` and no module asks which family it serves. Letters used below and in all docstrings:
`B` batch, `T` query time, `S` key time, `D` width, `H` heads, `G` key-value heads, `K` head size,
`F` feed-forward width, `V` vocabulary, `E` experts, `L` layers.
"""

import dataclasses
import difflib
from collections.abc import Mapping

from models import checks, sides
from models.choices import POOLED
from models.convnets import ConvNets
from models.pictures import Pictures


@dataclasses.dataclass(frozen=True)
class Options(Pictures, ConvNets):
    """Static options of a model. Zero means "derived" where a field says so.

    Raises ValueError, naming the option, for an unknown, ill-typed or contradictory value.
    """

    family: str = (
        "gpt2"  # the rename table of `models.interop` that serves it; nothing else reads it
    )
    kind: str = "decoder"  # the assembly that `models.build` makes
    # sizes
    vocab: int = 50257
    context: int = 1024  # the longest sequence; rows of the table of learned positions
    layers: int = 12
    width: int = 768
    heads: int = 12
    kv_heads: int = 0  # 0: as many as heads
    head_size: int = 0  # 0: width / heads
    ff: int = 0  # 0: mlp_ratio * width
    # an encoder-decoder: the sizes above are the decoder's
    encoder_layers: int = 0  # 0: as the decoder, like the two below
    encoder_heads: int = 0
    encoder_ff: int = 0
    encoder_vocab: int = 0  # of a token table that is the encoder's own; 0: one table for both
    start: int = 0  # the token before a target's first
    # norms
    norm: str = "layer"
    norm_place: str = "pre"
    norm_eps: float = 1e-5
    final_norm: bool = True
    embed_norm: bool = False
    # feed-forward
    act: str = "gelu_tanh"
    gated: bool = False
    experts: int = 0  # 0: a dense feed-forward
    experts_per_token: int = 2
    balance: float = 0.0  # coefficient of the load-balancing loss
    # positions
    positions: str = "learned"
    rope_theta: float = 10000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_original: int = 8192
    position_offset: int = 0  # rows of the learned table before position 0
    buckets: int = 32  # of relative positions, for each head a bias (T5)
    distance: int = 128  # from which on relative positions are one
    position_pad: int = -1  # this token has no position: they count the others; -1: the real ones
    # biases
    q_bias: bool = True
    k_bias: bool = True
    v_bias: bool = True
    o_bias: bool = True
    mlp_bias: bool = True
    # attention
    causal: bool = True
    pattern: tuple = ("global",)  # kinds of layers, repeated: "global" or "local"
    window: int = 0  # a local layer lets query i see keys j with i - window < j <= i
    windows: tuple = ()  # Longformer's two-sided windows, repeated over the layers: w/2 each way
    global_slots: int = 64  # global tokens in a row that are quick; more are right, and slower
    cross: bool = False  # a second attention in each layer, to `encoded`
    score_scale: str = "sqrt"
    scale_by_layer: bool = False  # divides scores by (layer + 1), GPT-2's option
    # layers that share parameters (ALBERT): 0: none do
    share_groups: int = 0  # layer i uses group i // (layers / groups)
    share_inner: int = 1  # blocks of a group, one after the other in each of its layers
    # embeddings and heads
    token_types: int = 0  # rows of the table of segments A, B
    embed_width: int = 0  # of a factorised embedding, which a matrix takes to `width`; 0: `width`
    embed_scale: bool = False  # multiplies token embeddings by sqrt(width)
    tied: bool = True  # the language head is the token table
    head_bias: bool = False
    head_scale: bool = False  # the head reads x / sqrt(width)
    head: str = "lm"
    head_act: str = ""  # of the masked-language head's transform; "": as `act`
    pooler: bool = False  # a dense layer on the pooled state, before the heads that read it
    pool: str = "first"  # the pooled state: of the first token, or the mean of the real ones
    pool_act: str = "tanh"
    labels: int = 0  # outputs of the classifying heads
    score_bias: bool = False
    score_act: str = "identity"  # applied to the pooled head's output
    # dropout
    drop_embed: float = 0.0
    drop_table: bool = False  # GPT-1 drops entries of the tables, not of their sum
    drop_attn: float = 0.0
    drop_resid: float = 0.0
    drop_head: float = 0.0
    drop_act: float = 0.0  # inside the feed-forward layer
    drop_final: float = 0.0  # after the final norm
    drop_pool: bool = False  # RoBERTa's classifier drops before its pooler, too
    # initialisation
    init: str = "normal"  # see `models.initial`
    init_std: float = 0.02  # a factor, where init is not "normal"
    init_positions: float = 0.02
    init_residual: bool = False  # o and down: init_std / sqrt(2 * layers)
    # how it is computed
    dtype: str = "float32"  # of matrix products; parameters stay float32 ("float64": with x64)
    stream: str = "dtype"  # of activations: as `dtype`, or "float32" (faster on CPU)
    remat: str = "auto"  # "auto": "dots_no_batch" on a CPU with layers apart, else "none"
    scan: bool = False
    attend: str = "auto"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = checks.typed(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        checks.check(self)

    @classmethod
    def of(cls, mapping: Mapping) -> "Options":
        """Options from a mapping of names to plain values, with the nearest name for a wrong one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in mapping:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"model has no option {name!r}{hint}")
        return cls(**{name: mapping[name] for name in mapping})

    def replace(self, **changes) -> "Options":
        return dataclasses.replace(self, **changes)

    def plain(self) -> dict:
        """Every option as a plain value, the form that configs and JSON hold."""
        return dataclasses.asdict(self)

    @property
    def groups(self) -> int:
        """G, the number of key-value heads."""
        return self.kv_heads or self.heads

    @property
    def size(self) -> int:
        """K, the size of one head."""
        return self.head_size or self.width // self.heads

    @property
    def hidden(self) -> int:
        """F, the width of the feed-forward layer."""
        return self.ff or int(self.mlp_ratio * self.width)

    @property
    def activations(self) -> str:
        """The dtype of the residual stream."""
        return self.dtype if self.stream == "dtype" else self.stream

    @property
    def dropout(self) -> bool:
        """Whether training needs a `dropout` key."""
        return max(getattr(self, name) for name in sides.RATES) > 0

    @property
    def thin(self) -> int:
        """U, the width of the embedding tables."""
        return self.embed_width or self.width

    @property
    def outputs(self) -> int:
        """C, the outputs of the head that is not a language head."""
        return {"pair": 2, "pretrain": 2, "spans": 2, "choice": 1}.get(self.head, self.labels)

    @property
    def pools(self) -> bool:
        """Whether there is a pooler: heads that would not read one leave it out."""
        return self.pooler and self.head in POOLED

    @property
    def depth(self) -> int:
        """How many blocks x passes through."""
        return self.layers * self.share_inner

    def order(self) -> tuple:
        """The number of the block, among those with parameters of their own, at each depth."""
        if not self.share_groups:
            return tuple(range(self.layers))
        groups = [int(i / (self.layers / self.share_groups)) for i in range(self.layers)]
        return tuple(g * self.share_inner + j for g in groups for j in range(self.share_inner))

    def kinds(self) -> tuple:
        """The kind of each layer, the pattern repeated over the depth; with windows, the window."""
        pattern = self.windows or self.pattern
        return tuple(pattern[i % len(pattern)] for i in range(self.depth))

    def variants(self) -> tuple:
        """The kinds that there are, in a fixed order."""
        return tuple(sorted(set(self.kinds())))
