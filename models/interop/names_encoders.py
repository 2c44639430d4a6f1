"""The rename tables of the encoders; see `models.interop.names` for the letters.

Besides: U width of the embedding tables, S segments, M the width again. What a head leaves unused in the reference (a
pooler under a masked-language head) is left out.
"""

from models.interop.rename import Row, Table, norms

BUFFERS = r"embeddings\.(position_ids|token_type_ids)|pooler(\.dense)?\.(weight|bias)"


def _always(o):
    return True


def dense(ours: str, theirs: str, kernel: str, when=_always) -> tuple:
    """A Linear's two rows; the bias is ours as it is theirs."""
    (left, right), bias = kernel.split(" -> "), {"(H K)": "(H K) -> H K"}
    out = left.split(") ")[0] + ")" if left.startswith("(") else left.split()[0]
    return (
        Row(f"{ours}/kernel", f"{theirs}.weight", f"{left} -> {right}", when),
        Row(f"{ours}/bias", f"{theirs}.bias", bias.get(out, f"{out} -> {out}"), when),
    )


def _embeddings() -> tuple:
    stem = "@embeddings"
    return (
        Row("embed/tokens/embedding", f"{stem}.word_embeddings.weight", "V U -> V U"),
        Row("embed/positions/embedding", f"{stem}.position_embeddings.weight", "P U -> P U"),
        Row(
            "embed/types/embedding", f"{stem}.token_type_embeddings.weight", "S U -> S U",
            lambda o: o.token_types > 0,
        ),
        *norms("embed/norm", f"{stem}.LayerNorm", letter="U"),
    )  # fmt: skip


def attention(ours: str, inner: str, names: tuple, out: str, end: str = "", when=_always) -> tuple:
    rows = ()
    for name, theirs in zip("qkv", names, strict=True):
        path = f"{ours}/{name}{'_global' if end else ''}"
        rows += dense(path, f"{inner}{theirs}{end}", "(H K) D -> D H K", when)
    return rows + (dense(f"{ours}/o", out, "D (H K) -> H K D", when) if out else ())


def _masked(transform: str, norm: str, decoder: str, bias: str, twin: str = "") -> tuple:
    """The masked-language head; untied, the reference keeps the bias twice and adds the twin."""
    has = lambda o: o.head in ("masked", "pretrain")
    return (
        *dense("head/dense", transform, "U D -> D U", has),
        *norms("head/norm", norm, letter="U", when=has),
        Row("head/kernel", f"{decoder}.weight", "V U -> U V", lambda o: has(o) and not o.tied),
        Row("head/bias", bias, "V -> V", has),
        *([Row("head/bias", twin, "V -> V", lambda o: has(o) and not o.tied)] if twin else ()),
    )


def _scores(classify: str, pair: str = "") -> tuple:
    """The other heads: the tensor's name depends on what is scored."""
    labelled = lambda o: o.head in ("tokens", "choice")
    rows = dense("score", "classifier", "C D -> D C", labelled)
    rows += dense("score", classify, "C D -> D C", lambda o: o.head == "classify")
    rows += dense("score", "qa_outputs", "C D -> D C", lambda o: o.head == "spans")
    if pair:
        rows += dense("score", pair, "C D -> D C", lambda o: o.head in ("pair", "pretrain"))
    return rows


_LAYER = "@encoder.layer.{i}"
_QKV = ("query", "key", "value")
_BLOCKS = (
    *attention("blocks/{i}/attn", f"{_LAYER}.attention.self.", _QKV, f"{_LAYER}.attention.output.dense"),
    *norms("blocks/{i}/attn_norm", f"{_LAYER}.attention.output.LayerNorm"),
    *attention(
        "blocks/{i}/cross", f"{_LAYER}.crossattention.self.", _QKV,
        f"{_LAYER}.crossattention.output.dense", when=lambda o: o.cross,
    ),
    *norms(
        "blocks/{i}/cross_norm", f"{_LAYER}.crossattention.output.LayerNorm",
        when=lambda o: o.cross,
    ),
    *dense("blocks/{i}/mlp/up", f"{_LAYER}.intermediate.dense", "F D -> D F"),
    *dense("blocks/{i}/mlp/down", f"{_LAYER}.output.dense", "D F -> F D"),
    *norms("blocks/{i}/mlp_norm", f"{_LAYER}.output.LayerNorm"),
)  # fmt: skip

_pools = lambda o: o.pools
_CLS = "cls.predictions"
BERT = Table(
    rows=(
        *_embeddings(),
        *_BLOCKS,
        *dense("pool", "@pooler.dense", "M D -> D M", _pools),
        *_masked(
            f"{_CLS}.transform.dense", f"{_CLS}.transform.LayerNorm", f"{_CLS}.decoder",
            f"{_CLS}.bias", f"{_CLS}.decoder.bias",
        ),
        *_scores("classifier", "cls.seq_relationship"),
    ),
    prefix="bert.",
    ignore=BUFFERS,
    embedding="@embeddings.word_embeddings.weight",
    head=f"{_CLS}.decoder.weight",
    bias=f"{_CLS}.bias",
    twin=f"{_CLS}.decoder.bias",
)  # fmt: skip


def _roberta(prefix: str, *more: Row) -> Table:
    """RoBERTa's classifier holds the dense layer that is the pooler elsewhere."""
    classifies = lambda o: o.pools and o.head == "classify"
    return Table(
        rows=(
            *_embeddings(),
            *_BLOCKS,
            *more,
            *dense("pool", "@pooler.dense", "M D -> D M", lambda o: o.pools and not classifies(o)),
            *dense("pool", "classifier.dense", "M D -> D M", classifies),
            *_masked(
                "lm_head.dense",
                "lm_head.layer_norm",
                "lm_head.decoder",
                "lm_head.bias",
                "lm_head.decoder.bias",
            ),
            *_scores("classifier.out_proj"),
        ),
        prefix=prefix,
        ignore=BUFFERS,
        embedding="@embeddings.word_embeddings.weight",
        head="lm_head.decoder.weight",
        bias="lm_head.bias",
        twin="lm_head.decoder.bias",
    )


ROBERTA = _roberta("roberta.")
LONGFORMER = _roberta(
    "longformer.",
    *attention("blocks/{i}/attn", f"{_LAYER}.attention.self.", _QKV, "", "_global"),
)

_SHARED = "@encoder.albert_layer_groups.{g}.albert_layers.{j}"
ALBERT = Table(
    rows=(
        *_embeddings(),
        *dense("embed/project", "@encoder.embedding_hidden_mapping_in", "D U -> U D"),
        *attention("blocks/{i}/attn", f"{_SHARED}.attention.", _QKV, f"{_SHARED}.attention.dense"),
        *norms("blocks/{i}/attn_norm", f"{_SHARED}.attention.LayerNorm"),
        *dense("blocks/{i}/mlp/up", f"{_SHARED}.ffn", "F D -> D F"),
        *dense("blocks/{i}/mlp/down", f"{_SHARED}.ffn_output", "D F -> F D"),
        *norms("blocks/{i}/mlp_norm", f"{_SHARED}.full_layer_layer_norm"),
        *dense("pool", "@pooler", "M D -> D M", _pools),
        *_masked(
            "predictions.dense",
            "predictions.LayerNorm",
            "predictions.decoder",
            "predictions.bias",
            "predictions.decoder.bias",
        ),
        *_scores("classifier", "sop_classifier.classifier"),
    ),
    prefix="albert.",
    ignore=BUFFERS,
    embedding="@embeddings.word_embeddings.weight",
    head="predictions.decoder.weight",
    bias="predictions.bias",
    twin="predictions.decoder.bias",
)

_DISTIL = "@transformer.layer.{i}"
DISTILBERT = Table(
    rows=(
        *_embeddings(),
        *attention(
            "blocks/{i}/attn", f"{_DISTIL}.attention.", ("q_lin", "k_lin", "v_lin"),
            f"{_DISTIL}.attention.out_lin",
        ),
        *norms("blocks/{i}/attn_norm", f"{_DISTIL}.sa_layer_norm"),
        *dense("blocks/{i}/mlp/up", f"{_DISTIL}.ffn.lin1", "F D -> D F"),
        *dense("blocks/{i}/mlp/down", f"{_DISTIL}.ffn.lin2", "D F -> F D"),
        *norms("blocks/{i}/mlp_norm", f"{_DISTIL}.output_layer_norm"),
        *dense("pool", "pre_classifier", "M D -> D M", _pools),
        *_masked("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"),
        *_scores("classifier"),
    ),
    prefix="distilbert.",
    ignore=BUFFERS,
    embedding="@embeddings.word_embeddings.weight",
    head="vocab_projector.weight",
)  # fmt: skip

TABLES = {
    "bert": BERT,
    "roberta": ROBERTA,
    "albert": ALBERT,
    "longformer": LONGFORMER,
    "distilbert": DISTILBERT,
}
