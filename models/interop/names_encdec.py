"""The rename tables of the encoder-decoders; see `models.interop.names` for the letters.

Besides: R buckets of distances. Rows of `encoder/` have the encoder's sizes; for an encoder alone
they are read without that prefix, and those of `decoder/` are left out.
"""

from models.interop.names_encoders import attention, dense
from models.interop.rename import Row, Table, norms

_QKV = ("q_proj", "k_proj", "v_proj")
_classifies = lambda o: o.head == "classify"
_spans = lambda o: o.head == "spans"
_untied = lambda o: o.head == "lm" and not o.tied


def _bart(side: str) -> tuple:
    """One stack of BART or Marian."""
    layer = f"@{side}.layers.{{i}}"
    block = f"{side}/blocks/{{i}}"
    rows = (
        Row(
            f"{side}/embed/positions/embedding", f"@{side}.embed_positions.weight", "P D -> P D",
            lambda o: o.positions == "learned",
        ),
        *norms(f"{side}/embed/norm", f"@{side}.layernorm_embedding", when=lambda o: o.embed_norm),
        *attention(f"{block}/attn", f"{layer}.self_attn.", _QKV, f"{layer}.self_attn.out_proj"),
        *norms(f"{block}/attn_norm", f"{layer}.self_attn_layer_norm"),
        *dense(f"{block}/mlp/up", f"{layer}.fc1", "F D -> D F"),
        *dense(f"{block}/mlp/down", f"{layer}.fc2", "D F -> F D"),
        *norms(f"{block}/mlp_norm", f"{layer}.final_layer_norm"),
    )  # fmt: skip
    if side == "encoder":
        return rows
    inner, out = f"{layer}.encoder_attn.", f"{layer}.encoder_attn.out_proj"
    return (
        *rows,
        *attention(f"{block}/cross", inner, _QKV, out),
        *norms(f"{block}/cross_norm", f"{layer}.encoder_attn_layer_norm"),
    )


_own = lambda o: o.encoder_vocab > 0
_one = lambda o: not o.encoder_vocab
_thrice = lambda o: _one(o) and not o.tied  # the reference then ties neither stack to the table
_COPIES = ("@encoder.embed_tokens.weight", "@decoder.embed_tokens.weight")
BART = Table(
    rows=(
        Row("embed/tokens/embedding", "@shared.weight", "V D -> V D", _one),
        Row("embed/tokens/embedding", "@decoder.embed_tokens.weight", "V D -> V D", _own),
        Row("encoder/embed/tokens/embedding", "@encoder.embed_tokens.weight", "V D -> V D", _own),
        *(Row("embed/tokens/embedding", name, "V D -> V D", _thrice) for name in _COPIES),
        *_bart("encoder"),
        *_bart("decoder"),
        Row("head/kernel", "lm_head.weight", "V D -> D V", _untied),
        Row(
            "head/bias", "final_logits_bias", "n V -> n V",
            lambda o: o.head == "lm" and o.head_bias,
        ),
        *dense("pool", "classification_head.dense", "M D -> D M", _classifies),
        *dense("score", "classification_head.out_proj", "C D -> D C", _classifies),
        *dense("score", "qa_outputs", "C D -> D C", _spans),
    ),
    prefix="model.",
    ignore=r"(encoder|decoder)\.(embed_positions\.weight|version)",
    embedding="@shared.weight",
    copies=_COPIES,
)  # fmt: skip


def _whisper(side: str) -> tuple:
    """One stack of Whisper; keys have no bias."""
    layer, block = f"@{side}.layers.{{i}}", f"{side}/blocks/{{i}}"
    rows = (
        Row(f"{side}/embed/positions/embedding", f"@{side}.embed_positions.weight", "P D -> P D"),
        *_keyless(f"{block}/attn", f"{layer}.self_attn"),
        *norms(f"{block}/attn_norm", f"{layer}.self_attn_layer_norm"),
        *dense(f"{block}/mlp/up", f"{layer}.fc1", "F D -> D F"),
        *dense(f"{block}/mlp/down", f"{layer}.fc2", "D F -> F D"),
        *norms(f"{block}/mlp_norm", f"{layer}.final_layer_norm"),
        *norms(f"{side}/norm", f"@{side}.layer_norm"),
    )
    if side == "encoder":
        return rows
    return (
        *rows,
        *_keyless(f"{block}/cross", f"{layer}.encoder_attn"),
        *norms(f"{block}/cross_norm", f"{layer}.encoder_attn_layer_norm"),
    )


def _keyless(ours: str, theirs: str) -> tuple:
    both = "(H K) D -> D H K", "(H K) -> H K"
    return (
        *(Row(f"{ours}/{n}/kernel", f"{theirs}.{n}_proj.weight", both[0]) for n in "qkv"),
        *(Row(f"{ours}/{n}/bias", f"{theirs}.{n}_proj.bias", both[1]) for n in "qv"),
        *dense(f"{ours}/o", f"{theirs}.out_proj", "D (H K) -> H K D"),
    )


WHISPER = Table(
    rows=(
        Row("embed/tokens/embedding", "@decoder.embed_tokens.weight", "V D -> V D"),
        Row("frames/conv1/kernel", "@encoder.conv1.weight", "D Z T -> T Z D"),
        Row("frames/conv1/bias", "@encoder.conv1.bias", "D -> D"),
        Row("frames/conv2/kernel", "@encoder.conv2.weight", "D M T -> T M D"),
        Row("frames/conv2/bias", "@encoder.conv2.bias", "D -> D"),
        *_whisper("encoder"),
        *_whisper("decoder"),
        Row("head/kernel", "proj_out.weight", "V D -> D V", _untied),
    ),
    prefix="model.",
    ignore="",
    embedding="@decoder.embed_tokens.weight",
    head="proj_out.weight",
)


def _linear(ours: str, theirs: str, pattern: str, when=lambda o: True) -> Row:
    return Row(f"{ours}/kernel", f"{theirs}.weight", pattern, when)


def _heads(ours: str, theirs: str) -> tuple:
    rows = tuple(_linear(f"{ours}/{n}", f"{theirs}.{n}", "(H K) D -> D H K") for n in "qkv")
    return (*rows, _linear(f"{ours}/o", f"{theirs}.o", "D (H K) -> H K D"))


def _t5(side: str) -> tuple:
    """One stack of T5; wi_0 is activated, wi_1 is not."""
    layer, block = f"@{side}.block.{{i}}.layer", f"{side}/blocks/{{i}}"
    last = f"{layer}.{1 if side == 'encoder' else 2}"
    inner = f"{last}.DenseReluDense"
    rows = (
        Row(
            f"{side}/relative/embedding",
            f"@{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "R H -> R H",
        ),
        *_heads(f"{block}/attn", f"{layer}.0.SelfAttention"),
        *norms(f"{block}/attn_norm", f"{layer}.0.layer_norm", bias=False),
        _linear(f"{block}/mlp/up", f"{inner}.wi", "F D -> D F", lambda o: not o.gated),
        _linear(f"{block}/mlp/gate", f"{inner}.wi_0", "F D -> D F", lambda o: o.gated),
        _linear(f"{block}/mlp/up", f"{inner}.wi_1", "F D -> D F", lambda o: o.gated),
        _linear(f"{block}/mlp/down", f"{inner}.wo", "D F -> F D"),
        *norms(f"{block}/mlp_norm", f"{last}.layer_norm", bias=False),
        *norms(f"{side}/norm", f"@{side}.final_layer_norm", bias=False),
    )
    if side == "encoder":
        return rows
    return (
        *rows,
        *_heads(f"{block}/cross", f"{layer}.1.EncDecAttention"),
        *norms(f"{block}/cross_norm", f"{layer}.1.layer_norm", bias=False),
    )


T5 = Table(
    rows=(
        Row("embed/tokens/embedding", "@shared.weight", "V D -> V D"),
        *_t5("encoder"),
        *_t5("decoder"),
        Row("head/kernel", "lm_head.weight", "V D -> D V", _untied),
        *dense("pool", "classification_head.dense", "M D -> D M", _classifies),
        *dense("score", "classification_head.out_proj", "C D -> D C", _classifies),
        *dense("score", "qa_outputs", "C D -> D C", _spans),
        *dense("score", "classifier", "C D -> D C", lambda o: o.head == "tokens"),
    ),
    prefix="transformer.",
    ignore=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    embedding="@shared.weight",
    copies=_COPIES,
    bare=("none", "lm", "spans"),
)


def _torch(side: str) -> tuple:
    """A stack of torch.nn.TransformerEncoderLayer or -DecoderLayer, norms after (norm_first=False)."""
    layer, block = f"@{side}.layers.{{i}}", f"{side}/blocks/{{i}}"

    def fused(ours, theirs):
        paths = lambda end: " ".join(f"{block}/{ours}/{name}/{end}" for name in "qkv")
        return (
            Row(paths("kernel"), f"{layer}.{theirs}.in_proj_weight", "(n H K) D -> n D H K"),
            Row(paths("bias"), f"{layer}.{theirs}.in_proj_bias", "(n H K) -> n H K"),
            *dense(f"{block}/{ours}/o", f"{layer}.{theirs}.out_proj", "D (H K) -> H K D"),
        )

    last = "norm2" if side == "encoder" else "norm3"
    rows = (
        *fused("attn", "self_attn"),
        *norms(f"{block}/attn_norm", f"{layer}.norm1"),
        *dense(f"{block}/mlp/up", f"{layer}.linear1", "F D -> D F"),
        *dense(f"{block}/mlp/down", f"{layer}.linear2", "D F -> F D"),
        *norms(f"{block}/mlp_norm", f"{layer}.{last}"),
    )
    if side == "encoder":
        return rows
    cross = fused("cross", "multihead_attn")
    return (*rows, *cross, *norms(f"{block}/cross_norm", f"{layer}.norm2"))


TRANSFORMER = Table(
    rows=(
        Row("embed/tokens/embedding", "@embed.weight", "V D -> V D"),
        *_torch("encoder"),
        *_torch("decoder"),
        Row("head/kernel", "lm_head.weight", "V D -> D V", _untied),
    ),
    prefix="",
    ignore="",
    embedding="@embed.weight",
)

TABLES = {"bart": BART, "marian": BART, "t5": T5, "transformer": TRANSFORMER, "whisper": WHISPER}
