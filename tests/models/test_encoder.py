"""What must be true of every encoder: padding, packing, two forms, heads, maps, caches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, families, transformer
from models.build import build, example
from models.options import Options
from tests.models import tiny

SHAPES = {
    "bert": {},
    "roberta": {"context": 40},
    "albert": {"embed_width": 16, "share_groups": 2, "share_inner": 2},
    "longformer": {"windows": (4, 8), "context": 200},
}
LAYERS = {"albert": 3}  # two groups of layers are shared unevenly by three
every = pytest.mark.parametrize("name", sorted(SHAPES))


def options(name, **changes):
    shape = dict(layers=LAYERS.get(name, 2), width=32, heads=4, vocab=61, context=64, drop_attn=0.0)
    return Options.of(families.row(name, **{**shape, **SHAPES[name], **changes}))


@functools.cache
def model(name, **changes):
    """(options, module, variables) with weights larger than the initial ones, so that errors show."""
    o = options(name, **changes)
    module = build(o)
    variables = jax.jit(module.init)(jax.random.key(0), example(o, 2, 12))
    return o, module, jax.tree.map(lambda w: w * 5 if w.ndim > 1 else w, variables)


def tokens(batch=2, time=12, seed=1):
    return jax.random.randint(jax.random.key(seed), (batch, time), 3, 61)


def features(module, variables, batch):
    return tiny.apply(module)(variables, batch, method="features")[0]


def both(module, variables, batch):
    """(hidden states, scores) of one compiled function."""
    return tiny.apply(module)(variables, batch, method=_both)


def _both(encoder, batch):
    x, _ = encoder.features(batch)
    return x, encoder.scores(x, batch)


@every
def test_every_token_sees_later_ones_and_no_padding(name):
    o, module, variables = model(name)
    given = tokens(1)
    base = features(module, variables, {"tokens": given})
    moved = features(module, variables, {"tokens": given.at[0, 2].set(7)})
    assert bool((jnp.abs(moved - base)[0].max(-1) > 1e-6).all()) or name == "longformer"
    assert float(jnp.abs(moved - base)[0, :3].min(-1).max()) > 0


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side):
    o, module, variables = model(name, head="classify", labels=3)
    given = tokens(2)
    x, scores = both(module, variables, {"tokens": given})
    pad = jnp.full((2, 5), 1)
    real, none = jnp.ones_like(given), jnp.zeros_like(pad)
    order = 1 if side == "right" else -1
    batch = {
        "tokens": jnp.concatenate([given, pad][::order], 1),
        "mask": jnp.concatenate([real, none][::order], 1),
    }
    padded, padded_scores = both(module, variables, batch)
    assert tiny.close(padded_scores, scores)
    assert tiny.close(padded[:, :12] if side == "right" else padded[:, 5:], x)


@every
def test_packed_documents_do_not_see_each_other(name):
    """Segments with positions that are not given restart; padding is segment 0."""
    o, module, variables = model(name)
    parts = tokens(2, 6, 2)
    batch = {
        "tokens": jnp.concatenate([*parts, jnp.ones(2, int)])[None],
        "segments": jnp.asarray([[1] * 6 + [2] * 6 + [0] * 2]),
    }
    x = features(module, variables, batch)
    alone = features(module, variables, {"tokens": parts})
    assert tiny.close(x[0, :6], alone[0]) and tiny.close(x[0, 6:12], alone[1])
    assert bool(jnp.isfinite(x).all())
    places = jnp.asarray([[*range(6), *range(6), 0, 0]])
    assert tiny.close(
        features(module, variables, {**batch, "positions": places})[:, :12], x[:, :12]
    )


def test_packed_documents_are_scored_one_by_one():
    o, module, variables = model("bert", head="pretrain")
    parts = tokens(2, 6, 2)
    batch = {
        "tokens": parts.reshape(1, 12),
        "segments": jnp.asarray([[1] * 6 + [2] * 6]),
        "read": jnp.asarray([[0, 6]]),
    }
    scores = tiny.apply(module)(variables, batch)["scores"]
    assert scores.shape == (1, 2, 2)
    assert tiny.close(scores[0], tiny.apply(module)(variables, {"tokens": parts})["scores"])


@every
def test_scanned_is_unrolled_and_remat_is_plain(name):
    """Loss and gradients, with dropout, agree between the forms and with rematerialisation."""
    o, module, variables = model(name, drop_attn=0.1, drop_head=0.0, head="masked")
    given = {"tokens": tokens(2)}
    if o.windows:
        given["global_mask"] = jnp.zeros_like(given["tokens"]).at[:, 3].set(1)

    def loss(params, module):
        x, _ = module.apply(
            {"params": params}, given, method="features", rngs={"dropout": jax.random.key(7)}
        )
        return (module.apply({"params": params}, x, method="logits") ** 2).mean()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, grads = run(variables["params"], module)
    stacked = transformer.stack(variables["params"])
    changes = [dict(scan=True, remat="full")]
    changes += [dict(remat="full"), dict(scan=True)] if name == "bert" else []
    for change in changes:
        params = stacked if "scan" in change else variables["params"]
        value2, grads2 = run(params, build(o.replace(**change)))
        grads2 = transformer.unstack(grads2) if "scan" in change else grads2
        assert abs(value - value2) < 1e-5 * max(1, abs(value))
        for mine, other in zip(jax.tree.leaves(grads), jax.tree.leaves(grads2), strict=True):
            scale = max(1e-3, float(jnp.abs(mine).max()))
            assert float(jnp.abs(mine - other).max()) < 2e-4 * scale


def test_scanned_trees_are_the_stacked_ones_and_shared_layers_are_few():
    for name in SHAPES:
        params = model(name)[2]["params"]
        scanned = jax.eval_shape(
            build(options(name, scan=True)).init, jax.random.key(0), {"tokens": tokens()}
        )["params"]
        shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
        assert shapes(scanned) == shapes(transformer.stack(params))
    assert set(model("albert")[2]["params"]["blocks"]) == {"0", "1", "2", "3"}
    assert options("albert").order() == (0, 1, 0, 1, 2, 3)


@every
def test_maps_and_hidden_states_on_request(name):
    o, module, variables = model(name)
    mask = jnp.ones((2, 12), int).at[1, 9:].set(0)
    given = {"tokens": tokens(2), "mask": mask}
    if o.windows:
        given["global_mask"] = jnp.zeros((2, 12), int).at[:, 0].set(1)
    plain = features(module, variables, given)
    (x, _), seen = tiny.apply(module)(
        variables, given, method="features", mutable=("maps", "hidden")
    )
    maps = seen["maps"]["attn"]
    assert maps.shape == (o.depth, 2, 4, 12, 12)
    assert seen["hidden"]["blocks"].shape == (o.depth + 1, 2, 12, 32)
    real = mask[None, :, None].astype(bool)
    assert tiny.close(jnp.where(real, maps.sum(-1), 1.0), jnp.ones(maps.shape[:-1]))
    assert float(maps[:, 1, :, :, 9:].max()) == 0
    assert tiny.close(x * mask[..., None], plain * mask[..., None])
    if o.windows:
        assert float(maps[0, 0, :, 1, 4:].max()) == 0 < float(maps[0, 0, :, 0].min())


HEADS = {
    "none": (), "masked": (), "pretrain": (2, 2), "pair": (2, 2), "classify": (2, 3),
    "tokens": (2, 12, 3), "spans": (2, 12, 2), "choice": (2, 5), "embed": (2, 32),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_heads_have_their_shapes(head):
    labels = 3 if head in ("classify", "tokens") else 0
    o, module, variables = model("bert", head=head, labels=labels, layers=1)
    given = tokens(10).reshape(2, 5, 12) if head == "choice" else tokens(2)
    batch = {"tokens": given, "mask": jnp.ones_like(given), "token_types": given % 2}
    out = tiny.apply(module)(variables, batch)
    assert ("logits" in out) == (head in ("masked", "pretrain"))
    assert ("scores" in out) == bool(HEADS[head])
    assert ("pooled" in out) == (head in ("none", "pretrain", "pair", "classify", "choice"))
    if "scores" in out:
        assert out["scores"].shape == HEADS[head] and out["scores"].dtype == jnp.float32
        x = features(module, variables, batch)
        again = tiny.apply(module)(variables, x, batch, method="scores")
        assert tiny.close(again, out["scores"])
    else:
        with pytest.raises(ValueError, match=f"'{head}' gives no scores"):
            module.apply(variables, tokens(2)[..., None] * jnp.ones(32), batch, method="scores")
    if head == "embed":
        assert tiny.close(jnp.linalg.norm(out["scores"], axis=-1), jnp.ones(2))


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_the_masked_head_runs_on_gathered_positions(name):
    o, module, variables = model(name, head="masked")
    x = features(module, variables, {"tokens": tokens(2)})
    logits = lambda x: tiny.apply(module)(variables, x, method="logits")
    whole = logits(x)
    places = jnp.asarray([[1, 4], [0, 11]])
    few = logits(jnp.take_along_axis(x, places[..., None], 1))
    assert whole.shape == (2, 12, 61) and whole.dtype == jnp.float32
    assert tiny.close(few, jnp.take_along_axis(whole, places[..., None], 1))
    assert tiny.close(logits(x[0, 3]), whole[0, 3])


def test_mean_pooling_ignores_padding():
    o, module, variables = model("bert", head="embed", pool="mean")
    given = tokens(2)
    mask = jnp.ones((2, 12), int).at[1, 6:].set(0)
    whole = tiny.apply(module)(variables, {"tokens": given, "mask": mask})["scores"]
    short = tiny.apply(module)(variables, {"tokens": given[1:, :6]})["scores"]
    assert tiny.close(whole[1:], short)


def test_roberta_counts_positions_from_ids():
    o, module, variables = model("roberta")
    table = variables["params"]["embed"]["positions"]["embedding"]
    assert table.shape == (o.context + 2, o.width)
    given = jnp.asarray([[1, 1, 7, 8, 1, 9]])
    x = features(module, variables, {"tokens": given})
    places = {"tokens": given, "positions": jnp.asarray([[-1, -1, 0, 1, -1, 2]])}
    assert tiny.close(x, features(module, variables, places))


@pytest.mark.parametrize("scan", [False, True])
def test_a_cached_decoder_with_cross_attention_is_the_full_one(scan):
    """Encoded states are given once, to the prefill; later steps read their keys from the cache."""
    o, module, variables = model("bert", causal=True, cross=True, head="masked")
    given, encoded = tokens(2), jax.random.normal(jax.random.key(3), (2, 5, 32))
    valid = jnp.ones((2, 5), int).at[1, 3:].set(0)
    source = {"encoded": encoded, "encoded_mask": valid}
    full = tiny.apply(module)(variables, {"tokens": given, **source})["logits"]
    changed = source | {"encoded": encoded.at[1, 4].add(3.0)}
    assert tiny.close(tiny.apply(module)(variables, {"tokens": given, **changed})["logits"], full)
    if scan:
        o = o.replace(scan=True)
        module, variables = build(o), {"params": transformer.stack(variables["params"])}
    memory, outs = cache.init(o, 2, 16, source=5), []
    for i, part in enumerate([slice(0, 7), *(slice(i, i + 1) for i in range(7, 12))]):
        batch = {"tokens": given[:, part], **(source if i == 0 else {})}
        out = tiny.apply(module)(variables, batch, memory)
        memory = out["cache"]
        outs.append(out["logits"])
    assert tiny.close(jnp.concatenate(outs, 1), full)
    swapped = cache.reorder(memory, jnp.asarray([1, 0]))
    assert swapped["cross_valid"].tolist() == valid[::-1].astype(bool).tolist()


def test_causality_of_a_decoder_with_the_masked_head():
    o, module, variables = model("bert", causal=True, head="masked")
    given = tokens(1)
    base = features(module, variables, {"tokens": given})
    moved = features(module, variables, {"tokens": given.at[0, 6].set(5)})
    assert (
        float(jnp.abs(moved - base)[:, :6].max()) == 0 < float(jnp.abs(moved - base)[:, 6:].min())
    )


@every
def test_bfloat16_compute_keeps_float32_parameters_and_scores(name):
    o, module, variables = model(name, dtype="bfloat16", head="pretrain")
    given = {"tokens": tokens()}
    full = tiny.apply(build(o.replace(dtype="float32")))(variables, given)
    out = tiny.apply(module)(variables, given)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    x, _ = jax.eval_shape(lambda v: module.apply(v, given, method="features"), variables)
    assert x.dtype == jnp.bfloat16
    assert out["logits"].dtype == out["scores"].dtype == jnp.float32
    assert 1e-5 < np.abs(out["logits"] - full["logits"]).max() < 0.3 * np.std(full["logits"])


@pytest.mark.parametrize(
    ("change", "batch", "words"),
    [
        ({}, {"global_mask": 1}, "global_mask.*windows"),
        ({"token_types": 0}, {"token_types": 1}, "token_types"),
        ({"cross": True}, {}, "encoded"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change, batch, words):
    module = build(options("bert", **change))
    given = {"tokens": tokens(), **{name: tokens() for name in batch}}
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(module.init, jax.random.key(0), given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(windows=(4, 3)), "windows.*even"),
        (dict(windows=(4,), causal=True), "causal=False"),
        (dict(share_groups=5), "share_groups=5.*layers=2"),
        (dict(share_inner=2), "share_inner=2"),
        (dict(head="lm"), "heads of an? encoder"),
        (dict(head="tokens"), "labels"),
        (dict(attend="banded"), "banded.*windows"),
    ],
)
def test_wrong_options_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        options("bert", **change)
