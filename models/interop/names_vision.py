"""The rename tables of models of images, as the reference library and timm spell them.

Letters besides those of `models.interop.names`: X channels of images, I and J a patch's height and
width, N rows of the table of positions, Q rows of a table of relative biases, L registers, M the
pooler's output, A and B the pixels that the pixel head makes of a token, W, Y and Z the widths of
Swin's last stage and of what merging gives and reads; 1 an axis of one. `{s}` counts Swin's stages,
`{m}` those that merge, `{t}` the stage after that.
"""

from models.interop.rename import Row, Table, norms


def _always(o):
    return True


def _linear(ours: str, theirs: str, kernel: str, bias: str, has=_always, when=_always) -> tuple:
    """A Linear's two rows, of which the bias is there if `has`."""
    return (
        Row(f"{ours}/kernel", f"{theirs}.weight", kernel, when),
        Row(f"{ours}/bias", f"{theirs}.bias", bias, lambda o: when(o) and has(o)),
    )


def _embedding(stem: str, names: dict) -> tuple:
    """Tokens, patches and positions; `names` are theirs, without the stem."""
    learned = lambda o: o.positions == "learned"
    return (
        Row("embed/cls", f"{stem}{names['cls']}", "1 1 D -> D", lambda o: o.cls_token),
        Row("embed/dist", f"{stem}{names['dist']}", "1 1 D -> D", lambda o: o.dist_token),
        Row("embed/registers", f"{stem}reg_token", "1 L D -> L D", lambda o: o.registers > 0),
        Row("embed/mask", f"{stem}mask_token", "1 1 D -> D", lambda o: o.mask_token),
        *_linear(
            "embed/patch", f"{stem}{names['patch']}", "D X I J -> I J X D", "D -> D",
            lambda o: o.patch_bias,
        ),
        Row("embed/positions/embedding", f"{stem}{names['positions']}", "1 N D -> N D", learned),
        *norms("embed/norm", f"{stem}{names['norm']}", when=lambda o: o.embed_norm),
    )  # fmt: skip


def _apart(stem: str, inner: str, names: tuple) -> tuple:
    """Queries, keys and values in matrices of their own."""
    rows = ()
    for role, name in zip("qkv", names, strict=True):
        has = lambda o, role=role: getattr(o, f"{role}_bias")
        path = f"{stem}/attn/{role}"
        rows += _linear(path, f"{inner}{name}", "(H K) D -> D H K", "(H K) -> H K", has)
    return rows


def _fused(stem: str, weight: str, bias: str) -> tuple:
    """Queries, keys and values in one matrix, the queries' rows first."""
    paths = lambda leaf: " ".join(f"{stem}/attn/{role}/{leaf}" for role in "qkv")
    return (
        Row(paths("kernel"), weight, "(n H K) D -> n D H K"),
        Row(paths("bias"), bias, "(n H K) -> n H K", lambda o: o.q_bias),
    )


def _block(stem: str, out: str, before: str, after: str, up: str, down: str) -> tuple:
    """What follows the heads; the names are theirs."""
    has, mlp = lambda o: o.mlp_bias, lambda o: o.mlp
    return (
        *_linear(f"{stem}/attn/o", out, "D (H K) -> H K D", "D -> D", lambda o: o.o_bias),
        *norms(f"{stem}/attn_norm", before, when=lambda o: o.norm_place != "none"),
        *norms(f"{stem}/mlp_norm", after, when=lambda o: o.norm_place != "none" and o.mlp),
        *_linear(f"{stem}/mlp/up", up, "F D -> D F", "F -> F", has, mlp),
        *_linear(f"{stem}/mlp/down", down, "D F -> F D", "D -> D", has, mlp),
    )


def _scales(first: str, second: str) -> tuple:
    scaled = lambda o: o.layer_scale > 0
    return (
        Row("blocks/{i}/attn_scale/scale", first, "D -> D", scaled),
        Row("blocks/{i}/mlp_scale/scale", second, "D -> D", scaled),
    )


def _relative(layers: str, shared: str) -> tuple:
    pairs = "Q H -> Q H"
    return (
        Row("blocks/{i}/attn/relative/embedding", layers, pairs, lambda o: o.relative_layers),
        Row("relative/embedding", shared, pairs, lambda o: o.relative_shared),
    )


def _scores(one: str, first: str = "", second: str = "", width: str = "D") -> tuple:
    """The classifiers: one, or DeiT's two."""
    kernel = f"C {width} -> {width} C"
    classify, distilled = lambda o: o.head == "classify", lambda o: o.head == "distilled"
    rows = _linear("score", one, kernel, "C -> C", when=classify)
    if first:
        rows += _linear("score", first, kernel, "C -> C", when=distilled)
        rows += _linear("score_dist", second, kernel, "C -> C", when=distilled)
    return rows


def _pixels(width: str) -> tuple:
    made = lambda o: o.head == "pixels"
    kernel = f"(X A B) {width} 1 1 -> {width} A B X"
    return _linear("head/pixels", "decoder.0", kernel, "(X A B) -> A B X", when=made)


_EMBED = dict(
    cls="cls_token", dist="distillation_token", patch="patch_embeddings.projection",
    positions="position_embeddings", norm="norm",
)  # fmt: skip
_LAYER, _QKV = "@encoder.layer.{i}", ("query", "key", "value")
_HF = (
    *_embedding("@embeddings.", _EMBED),
    *_apart("blocks/{i}", f"{_LAYER}.attention.attention.", _QKV),
    *_block(
        "blocks/{i}", f"{_LAYER}.attention.output.dense", f"{_LAYER}.layernorm_before",
        f"{_LAYER}.layernorm_after", f"{_LAYER}.intermediate.dense", f"{_LAYER}.output.dense",
    ),
    *norms("norm", "@layernorm", when=lambda o: o.final_norm),
    *_linear("pool", "@pooler.dense", "M D -> D M", "M -> M", when=lambda o: o.pools),
    *_scores("classifier", "cls_classifier", "distillation_classifier"),
    *_pixels("D"),
)  # fmt: skip
_BIAS = "relative_position_bias.relative_position_bias_table"
_masked = lambda o: o.head == "masked"
_pooled = lambda o: o.pool_norm and o.head in ("none", "classify")


def _table(rows: tuple, prefix: str = "") -> Table:
    unused = r"(.*\.)?relative_position_index|.*attn_mask|pooler\.dense\.(weight|bias)"
    return Table(rows=rows, prefix=prefix, ignore=unused, embedding="", head="")


BEIT = (
    *_HF,
    *_relative(f"{_LAYER}.attention.attention.{_BIAS}", f"@encoder.{_BIAS}"),
    *_scales(f"{_LAYER}.lambda_1", f"{_LAYER}.lambda_2"),
    *norms("pool_norm", "@pooler.layernorm", when=_pooled),
    *norms("head/norm", "layernorm", when=_masked),
    *_linear("head", "lm_head", "V D -> D V", "V -> V", when=_masked),
)

_PART, _STAGE = "stages/{s}/blocks/{i}", "@encoder.layers.{s}.blocks.{i}"


def _merging(theirs: str) -> tuple:
    return (
        *norms("stages/{m}/merge/norm", f"{theirs}.norm", letter="Z"),
        Row("stages/{m}/merge/project/kernel", f"{theirs}.reduction.weight", "Y Z -> Z Y"),
    )


SWIN = (
    *_embedding("@embeddings.", _EMBED),
    *_apart(_PART, f"{_STAGE}.attention.self.", _QKV),
    *_block(
        _PART, f"{_STAGE}.attention.output.dense", f"{_STAGE}.layernorm_before",
        f"{_STAGE}.layernorm_after", f"{_STAGE}.intermediate.dense", f"{_STAGE}.output.dense",
    ),
    Row(
        f"{_PART}/attn/relative/embedding",
        f"{_STAGE}.attention.self.relative_position_bias_table", "Q H -> Q H",
    ),
    *_merging("@encoder.layers.{m}.downsample"),
    *norms("norm", "@layernorm", letter="W"),
    *_scores("classifier", width="W"),
    *_pixels("W"),
)  # fmt: skip

_TIMM = dict(
    cls="cls_token", dist="dist_token", patch="patch_embed.proj", positions="pos_embed",
    norm="norm_pre",
)  # fmt: skip


def _timm_block(ours: str, theirs: str) -> tuple:
    return _block(
        ours, f"{theirs}.attn.proj", f"{theirs}.norm1", f"{theirs}.norm2", f"{theirs}.mlp.fc1",
        f"{theirs}.mlp.fc2",
    )  # fmt: skip


_VIT = "blocks.{i}"
_TIMM_VIT = (
    *_embedding("", _TIMM),
    *_timm_block("blocks/{i}", _VIT),
    *norms("norm", "norm", when=lambda o: o.final_norm),
    *norms("pool_norm", "fc_norm", when=lambda o: o.pool_norm),
)
TIMM_VIT = (
    *_TIMM_VIT,
    *_fused("blocks/{i}", f"{_VIT}.attn.qkv.weight", f"{_VIT}.attn.qkv.bias"),
    *_scales(f"{_VIT}.ls1.gamma", f"{_VIT}.ls2.gamma"),
    *_scores("head", "head", "head_dist"),
)
TIMM_BEIT = (
    *_TIMM_VIT,
    _fused("blocks/{i}", f"{_VIT}.attn.qkv.weight", "")[0],
    Row("blocks/{i}/attn/q/bias", f"{_VIT}.attn.q_bias", "(H K) -> H K", lambda o: o.q_bias),
    Row("blocks/{i}/attn/v/bias", f"{_VIT}.attn.v_bias", "(H K) -> H K", lambda o: o.v_bias),
    *_relative(
        f"{_VIT}.attn.relative_position_bias_table", "rel_pos_bias.relative_position_bias_table"
    ),
    *_scales(f"{_VIT}.gamma_1", f"{_VIT}.gamma_2"),
    *_scores("head"),
)

_LAYERS = "layers.{s}.blocks.{i}"
TIMM_SWIN = (
    *_embedding("", {**_TIMM, "norm": "patch_embed.norm"}),
    *_fused(_PART, f"{_LAYERS}.attn.qkv.weight", f"{_LAYERS}.attn.qkv.bias"),
    *_timm_block(_PART, _LAYERS),
    Row(
        f"{_PART}/attn/relative/embedding", f"{_LAYERS}.attn.relative_position_bias_table",
        "Q H -> Q H",
    ),
    *_merging("layers.{t}.downsample"),
    *norms("norm", "norm", letter="W"),
    *_scores("head.fc", width="W"),
)  # fmt: skip

_TORCH = {**_TIMM, "positions": "position_embedding"}
_MULTI = "transformer_layers.{i}.attn"
TEXTBOOK = (
    *_embedding("", _TORCH),
    *_fused("blocks/{i}", f"{_MULTI}.in_proj_weight", f"{_MULTI}.in_proj_bias"),
    *_linear("blocks/{i}/attn/o", f"{_MULTI}.out_proj", "D (H K) -> H K D", "D -> D"),
    *_scores("mlp_head"),
)

TABLES = {
    "vit": _table(_HF, "vit."),
    "deit": _table(_HF, "deit."),
    "beit": _table(BEIT, "beit."),
    "swin": _table(SWIN, "swin."),
    "timm/VisionTransformer": _table(TIMM_VIT),
    "timm/VisionTransformerDistilled": _table(TIMM_VIT),
    "timm/Beit": _table(TIMM_BEIT),
    "timm/SwinTransformer": _table(TIMM_SWIN),
    "textbook": _table(TEXTBOOK),
}
