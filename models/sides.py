"""The two sides of an encoder-decoder, and what its options must not say.

One `Options` describes both: its sizes are the decoder's, `encoder_layers`, `encoder_heads` and
`encoder_ff` what differs in the encoder.
"""

RATES = (
    "drop_embed", "drop_attn", "drop_resid", "drop_head", "drop_act", "drop_final", "drop_path",
)  # fmt: skip
_SIZES = ("encoder_layers", "encoder_heads", "encoder_ff", "encoder_vocab")


def encoder(o):
    """The options of the encoder's stack: a model of its own, without a head."""
    return o.replace(
        kind="encoder", head="none", causal=False, cross=False, pooler=False, labels=0,
        layers=o.encoder_layers or o.layers, heads=o.encoder_heads or o.heads, kv_heads=0,
        ff=o.encoder_ff or o.hidden, vocab=o.encoder_vocab or o.vocab, start=0, head_scale=False,
        **dict.fromkeys(_SIZES, 0),
    )  # fmt: skip


def check(o):
    """ValueError for what an encoder-decoder cannot be, or what only it has."""
    for name in (*_SIZES, "start"):
        value = getattr(o, name)
        if value < 0:
            raise ValueError(f"model.{name} is {value}; expected 0 or more")
        if value and o.kind != "encdec":
            raise ValueError(f"model.{name}={value} needs model.kind='encdec', not {o.kind!r}")
    if o.positions == "relative" and o.buckets < 4:
        raise ValueError(f"model.buckets is {o.buckets}; expected at least 4")
    if o.positions == "relative" and o.distance <= o.buckets // 2:
        raise ValueError(
            f"model.distance={o.distance} must exceed half of model.buckets={o.buckets}"
        )
    if o.kind != "encdec":
        return
    for name, wanted in (("causal", True), ("cross", True)):
        if getattr(o, name) is not wanted:
            raise ValueError(f"model.kind='encdec' needs model.{name}={wanted}")
    for name in ("windows", "experts", "share_groups", "embed_width", "token_types"):
        if getattr(o, name):
            raise ValueError(f"model.{name} is not for model.kind='encdec'")
    if o.start >= o.vocab:
        raise ValueError(f"model.start={o.start} is outside model.vocab={o.vocab}")
    if o.encoder_heads and not o.head_size and o.width % o.encoder_heads:
        raise ValueError(f"model.encoder_heads={o.encoder_heads} does not divide {o.width}")
