"""What must be true of every decoder: causality, padding, packing, caches, two forms, maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache, transformer
from models.build import build
from models.likelihood import token_log_probs
from tests.models import tiny

every = pytest.mark.parametrize("name", tiny.NAMES)


@every
def test_causality_by_gradient(name):
    """The output at time t has no gradient with respect to any later embedding."""
    o, model, variables = tiny.model(name)
    tokens = tiny.tokens(1)

    def at(table, t):
        params = {**variables["params"]}
        params["embed"] = {**params["embed"], "tokens": {"embedding": table}}
        x, _ = model.apply({"params": params}, {"tokens": tokens}, method="features")
        return x[0, t].sum() * 3 + (x[0, t] ** 2).sum()

    distinct = jnp.arange(12)[None] + 7
    tokens = distinct
    table = variables["params"]["embed"]["tokens"]["embedding"]
    grads = jax.grad(at)(table, 5)
    seen = jnp.abs(grads).sum(-1)[7 : 7 + 12] > 0
    assert not seen[6:].any()
    assert seen[5] and seen[2:6].all()


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side):
    o, model, variables = tiny.model(name)
    tokens = tiny.tokens(2)
    alone = tiny.apply(model)(variables, {"tokens": tokens})["logits"]
    pad = jnp.full((2, 5), 3)
    parts = [pad, tokens] if side == "left" else [tokens, pad]
    mask = jnp.concatenate(
        [jnp.zeros_like(pad), jnp.ones_like(tokens)][:: 1 if side == "left" else -1], 1
    )
    logits = tiny.apply(model)(variables, {"tokens": jnp.concatenate(parts, 1), "mask": mask})[
        "logits"
    ]
    logits = logits[:, 5:] if side == "left" else logits[:, :-5]
    assert tiny.close(logits, alone)


@every
def test_packed_documents_do_not_see_each_other(name):
    o, model, variables = tiny.model(name)
    first, second = tiny.tokens(1, 7, 2), tiny.tokens(1, 5, 3)
    batch = {
        "tokens": jnp.concatenate([first, second, jnp.zeros((1, 2), int)], 1),
        "segments": jnp.asarray([[1] * 7 + [2] * 5 + [0] * 2]),
        "positions": jnp.asarray([[*range(7), *range(5), 0, 0]]),
    }
    logits = tiny.apply(model)(variables, batch)["logits"]
    assert tiny.close(logits[:, :7], tiny.apply(model)(variables, {"tokens": first})["logits"])
    assert tiny.close(logits[:, 7:12], tiny.apply(model)(variables, {"tokens": second})["logits"])
    assert bool(jnp.isfinite(logits).all())


@every
@pytest.mark.parametrize("scan", [False, True])
def test_cached_is_full(name, scan):
    """Prefill of a left-padded prompt, then one token at a time, gives the full forward's logits."""
    o, model, variables = tiny.model(name)
    tokens = tiny.tokens(2, 14)
    mask = jnp.ones_like(tokens).at[1, :3].set(0)
    full = tiny.apply(model)(variables, {"tokens": tokens, "mask": mask})["logits"]
    if scan:
        o = o.replace(scan=True)
        model, variables = build(o), {"params": transformer.stack(variables["params"])}
    memory = cache.init(o, 2, 16)
    step = jax.jit(lambda m, t, c: model.apply(variables, {"tokens": t, "mask": m}, c))
    outs, memory = [], memory
    for part in [slice(0, 6), *(slice(i, i + 1) for i in range(6, 14))]:
        out = step(mask[:, part], tokens[:, part], memory)
        memory = out["cache"]
        outs.append(out["logits"])
    cached = jnp.concatenate(outs, 1)
    real = mask.astype(bool)
    assert tiny.close(cached[real], full[real])
    assert int(memory["index"]) == 14 and memory["position"].tolist() == [14, 11]


def test_reordered_cache_follows_its_rows():
    o, model, variables = tiny.model("llama")
    tokens = tiny.tokens(3, 6)
    _, given = tiny.apply(model)(
        variables, {"tokens": tokens}, cache.init(o, 3, 8), method="features"
    )
    rows = jnp.asarray([2, 2, 0, 1])
    after = model.apply(
        variables, {"tokens": tokens[rows][:, :1]}, cache.reorder(given["cache"], rows)
    )
    whole = jnp.concatenate([tokens[rows], tokens[rows][:, :1]], 1)
    full = tiny.apply(model)(variables, {"tokens": whole})["logits"]
    assert tiny.close(after["logits"][:, 0], full[:, -1])


POLICIES = [("gpt2", "dots"), ("gpt2", "dots_no_batch"), *((name, "full") for name in tiny.NAMES)]


@functools.cache
def dropped(name):
    """(options, parameters, a jitted loss and its gradients, their values) with dropout on."""
    rates = dict(drop_embed=0.1, drop_attn=0.1, drop_resid=0.1)
    o, model, variables = tiny.model(name, **rates)
    tokens = tiny.tokens(2)

    def loss(params, module):
        key = jax.random.key(7)
        x, _ = module.apply(
            {"params": params}, {"tokens": tokens}, method="features", rngs={"dropout": key}
        )
        head = lambda x: module.apply({"params": params}, x, method="logits")
        return -token_log_probs(head, x, tokens).mean()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    return o, variables["params"], run, run(variables["params"], model)


@pytest.mark.parametrize("name,remat", POLICIES)
def test_scanned_is_unrolled_and_remat_is_plain(name, remat):
    """Loss and gradients, with dropout, agree between the two forms and under every policy."""
    o, params, run, (value, grads) = dropped(name)
    value2, grads2 = run(transformer.stack(params), build(o.replace(scan=True, remat=remat)))
    others = [(value2, transformer.unstack(grads2))]
    if name == "gpt2":  # one family unrolled as well: remat wraps the same block
        others.append(run(params, build(o.replace(remat=remat))))
    for other, gradients in others:
        assert abs(value - other) < 1e-5
        assert jax.tree.structure(gradients) == jax.tree.structure(grads)
        assert all(map(tiny.close, jax.tree.leaves(gradients), jax.tree.leaves(grads)))


@every
def test_maps_hidden_states_and_stats_on_request(name):
    o, model, variables = tiny.model(name)
    tokens = tiny.tokens(2)
    plain = tiny.apply(model)(variables, {"tokens": tokens})
    out, seen = tiny.apply(model)(
        variables, {"tokens": tokens}, mutable=("maps", "hidden", "stats")
    )
    maps = seen["maps"]["attn"]
    assert maps.shape == (3, 2, 4, 12, 12) and seen["hidden"]["blocks"].shape == (4, 2, 12, 32)
    assert tiny.close(maps.sum(-1), jnp.ones((3, 2, 4, 12)))
    assert float(jnp.abs(jnp.triu(maps, 1)).max()) == 0
    assert tiny.close(out["logits"], plain["logits"])
    if name == "gpt3":
        assert float(jnp.abs(jnp.tril(maps[1], -4)).max()) == 0 < float(maps[0, ..., 5:, 0].min())
    if name == "moe":
        assert seen["stats"]["router"].shape == (3, 2, 12, 5)
        assert out["router"]["counts"].sum() == 3 * 24 * 2


def test_maps_cost_nothing_when_not_asked_for():
    o, model, variables = tiny.model("gpt2", heads=2, context=512)
    tokens = tiny.tokens(1, 512)
    text = jax.jit(lambda v, t: model.apply(v, {"tokens": t})["logits"]).lower(variables, tokens)
    assert "512x512" not in text.as_text()
    want = jax.jit(lambda v, t: model.apply(v, {"tokens": t}, mutable=["maps"])).lower(
        variables, tokens
    )
    assert "512x512" in want.as_text()


def test_dropout_is_on_iff_a_key_is_given():
    o, model, variables = tiny.model("gpt1")
    tokens = tiny.tokens(2)
    run = lambda **rngs: tiny.apply(model)(variables, {"tokens": tokens}, rngs=rngs)["logits"]
    assert (run() == run()).all()
    one, two = run(dropout=jax.random.key(1)), run(dropout=jax.random.key(2))
    assert not tiny.close(one, two) and (one == run(dropout=jax.random.key(1))).all()


@pytest.mark.parametrize("head", ["classify", "double"])
def test_pooled_head_reads_the_last_real_token(head):
    o, model, variables = tiny.model("gpt2", head=head, labels=3, score_bias=True)
    tokens, mask = tiny.tokens(2), jnp.ones((2, 12), int).at[0, 9:].set(0)
    scores = tiny.apply(model)(variables, {"tokens": tokens, "mask": mask})["scores"]
    short = tiny.apply(model)(variables, {"tokens": tokens[:1, :9]})["scores"]
    named = tiny.apply(model)(variables, {"tokens": tokens, "read": jnp.asarray([8, 11])})["scores"]
    assert scores.shape == (2, 3) and scores.dtype == jnp.float32
    assert tiny.close(scores[:1], short) and tiny.close(scores, named)
    assert ("head" in variables["params"]) is False  # tied, or no language head at all


def test_bfloat16_compute_keeps_float32_parameters_and_logits():
    o, model, variables = tiny.model("llama", dtype="bfloat16")
    full = tiny.model("llama")[1].apply(variables, {"tokens": tiny.tokens()})["logits"]
    out = tiny.apply(model)(variables, {"tokens": tiny.tokens()})["logits"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    x, _ = tiny.apply(model)(variables, {"tokens": tiny.tokens()}, method="features")
    assert x.dtype == jnp.bfloat16 and out.dtype == jnp.float32
    assert 1e-5 < np.abs(out - full).max() < 0.2 * np.std(full)


def test_too_long_a_sequence_is_refused():
    o, model, variables = tiny.model("gpt2", context=12)
    with pytest.raises(ValueError, match="13 tokens.*context=12"):
        tiny.apply(model)(variables, {"tokens": tiny.tokens(2, 13)})


def test_initialisation_follows_the_papers():
    o = tiny.options("gpt2", width=256, ff=1024, layers=2, vocab=2000)
    params = build(o).init(jax.random.key(0), {"tokens": tiny.tokens()})["params"]
    block = params["blocks"]["1"]
    deviation = lambda leaf: float(np.std(leaf))
    assert abs(deviation(params["embed"]["tokens"]["embedding"]) - 0.02) < 1e-3
    assert abs(deviation(params["embed"]["positions"]["embedding"]) - 0.01) < 1e-3
    assert abs(deviation(block["attn"]["q"]["kernel"]) - 0.02) < 1e-3
    assert abs(deviation(block["attn"]["o"]["kernel"]) - 0.01) < 1e-3
    assert abs(deviation(block["mlp"]["down"]["kernel"]) - 0.01) < 1e-3
    assert float(np.abs(block["attn"]["q"]["bias"]).max()) == 0
