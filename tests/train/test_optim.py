"""Optimizers: both forms of a tree make the same updates, names select, and numbers are torch's."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from models.build import shapes
from models.options import Options
from train.core import config as configs
from train.core import optim

GOLDEN = Path(__file__).parents[1] / "golden"
L, D, H, K, F, E, V = 3, 128, 2, 64, 160, 2, 130


def options(**changes):
    return ConfigDict({**configs.DEFAULTS["optim"], "schedule": "constant", **changes})


def layer_shapes(experts=False):
    attn = {n: {"kernel": (D, H, K), "bias": (H, K)} for n in "qkv"}
    attn["o"] = {"kernel": (H, K, D), "bias": (D,)}
    lead = (E,) if experts else ()
    mlp = {"up": {"kernel": (*lead, D, F)}, "down": {"kernel": (*lead, F, D)}}
    if experts:
        mlp["router"] = {"kernel": (D, E)}
    return {"attn": attn, "mlp": mlp, "attn_norm": {"scale": (D,)}}


def trees(seed=0, experts=False):
    """The same parameters apart and stacked."""
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape) * rng.uniform(0.1, 3), jnp.float32)  # noqa: E731
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    layers = [jax.tree.map(draw, layer_shapes(experts), is_leaf=is_shape) for _ in range(L)]
    rest = {"embed": {"tokens": {"embedding": draw((V, D))}}, "norm": {"scale": draw((D,))}}
    apart = {**rest, "blocks": {str(i): layer for i, layer in enumerate(layers)}}
    stacked = {**rest, "blocks": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
    return apart, stacked


def stack(tree):
    layers = [tree["blocks"][str(i)] for i in range(L)]
    return {**tree, "blocks": jax.tree.map(lambda *x: jnp.stack(x), *layers)}


def run(config, params, gradients, steps=3):
    transform, _ = optim.build(config, 10, params)
    state = jax.jit(transform.init)(params)
    update = jax.jit(transform.update)
    for gradient in gradients[:steps]:
        change, state = update(gradient, state, params)
        params = optax.apply_updates(params, change)
    return params, state


def differing(a, b, tolerance=2e-6) -> list:
    """The paths at which two trees differ by more than a tolerance, each with the largest difference."""
    flat_a, flat_b = dict(optim._flat(a)), dict(optim._flat(b))
    assert flat_a.keys() == flat_b.keys()
    return [
        (path, float(np.abs(x - flat_b[path]).max()))
        for path, x in flat_a.items()
        if not np.allclose(x, flat_b[path], rtol=tolerance, atol=tolerance)
    ]


@pytest.mark.parametrize(
    ("name", "experts"),
    [(name, False) for name in configs.OPTIMIZERS] + [("adafactor", True), ("muon", True)],
)
def test_stacked_layers_get_the_updates_of_layers_apart(name, experts):
    config = options(
        name=name, lr=0.02, weight_decay=0.1, clip=1.0, decay=r"(kernel|embedding)$",
        multipliers=((r"blocks/1/", 0.5), (r"^embed/", 2.0)), freeze=r"blocks/2/mlp|^norm/",
    )  # fmt: skip
    apart, stacked = trees(experts=experts)
    gradients = [trees(seed, experts) for seed in (1, 2)]
    one, _ = run(config, apart, [g for g, _ in gradients])
    two, _ = run(config, stacked, [g for _, g in gradients])
    # Newton-Schulz multiplies rounding differences of batched products
    assert not differing(stack(one), two, 2e-4 if name == "muon" else 2e-5)
    moved = jnp.abs(two["blocks"]["mlp"]["up"]["kernel"] - stacked["blocks"]["mlp"]["up"]["kernel"])
    assert float(moved[:2].min(axis=(-1, -2)).max()) >= 0 and float(moved[0].max()) > 0
    assert float(moved[2].max()) == 0.0, "a frozen layer of a stacked array moved"
    assert jnp.array_equal(two["norm"]["scale"], stacked["norm"]["scale"])


@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_a_rule_over_the_whole_stacked_array_would_differ(name):
    """The comparison above has teeth: without the vmap, a per-tensor rule is off by percents."""
    _, stacked = trees()
    _, gradient = trees(1)
    plain = {"lamb": optax.lamb(0.02, eps=1e-8), "adafactor": optax.adafactor(0.02)}[name]
    change, _ = plain.update(gradient, plain.init(stacked), stacked)
    ours, _ = run(
        options(name=name, lr=0.02, b1=0.9 if name == "lamb" else 0.0), stacked, [gradient], 1
    )
    wrong = optax.apply_updates(stacked, change)["blocks"]["mlp"]["up"]["kernel"]
    right = ours["blocks"]["mlp"]["up"]["kernel"]
    base = stacked["blocks"]["mlp"]["up"]["kernel"]
    assert float(jnp.linalg.norm(wrong - right) / jnp.linalg.norm(right - base)) > 0.005


def mask(tree):
    return optim.map_paths(lambda path, _: path.endswith(("kernel", "embedding")), tree)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", optax.adamw(0.01, 0.9, 0.95, 1e-6, weight_decay=0.1, mask=mask)),
        ("lion", optax.lion(0.01, 0.9, 0.95, weight_decay=0.1, mask=mask)),
        ("lamb", optax.lamb(0.01, 0.9, 0.95, 1e-6, weight_decay=0.1, mask=mask)),
        ("sgd", optax.chain(optax.add_decayed_weights(0.1, mask), optax.sgd(0.01, 0.9))),
    ],
)
def test_each_name_is_optax_s_optimizer(name, reference):
    apart, _ = trees()
    gradients = [trees(seed)[0] for seed in (1, 2)]
    config = options(name=name, lr=0.01, b1=0.9, b2=0.95, eps=1e-6, weight_decay=0.1)
    ours, _ = run(config, apart, gradients)
    params, state = apart, reference.init(apart)
    for gradient in gradients:
        change, state = reference.update(gradient, state, params)
        params = optax.apply_updates(params, change)
    assert not differing(ours, params)


def test_adafactor_is_optax_s_on_matrices_and_factors_attention_kernels():
    params = {
        "blocks": {"0": {"mlp": {"up": {"kernel": trees()[0]["embed"]["tokens"]["embedding"]}}}}
    }
    gradient = jax.tree.map(lambda x: jnp.sin(x * 3), params)
    ours, _ = run(options(name="adafactor", lr=0.01, b1=0.0), params, [gradient, gradient])
    reference = optax.adafactor(0.01)
    state, expected = reference.init(params), params
    for _ in range(2):
        change, state = reference.update(gradient, state, expected)
        expected = optax.apply_updates(expected, change)
    assert not differing(ours, expected)
    transform, _ = optim.build(options(name="adafactor", b1=0.0), 10, trees()[0])
    sizes = [(p, x.size) for p, x in optim._flat(transform.init(trees()[0])) if "q/kernel" in p]
    assert sum(size for _, size in sizes) == L * (D + H * K + 1), sizes


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adam():
    apart, _ = trees()
    gradient, _ = trees(1)
    ours, state = run(options(name="muon", lr=1.0, b1=0.95), apart, [gradient], 1)
    change = jax.tree.map(jnp.subtract, ours, apart)
    for name, shape in [("q", (D, H * K)), ("o", (H * K, D))]:
        matrix = np.asarray(change["blocks"]["0"]["attn"][name]["kernel"]).reshape(shape)
        values = np.linalg.svd(matrix / (0.2 * np.sqrt(max(shape))), compute_uv=False)
        assert 0.3 < np.median(values) < 1.3 and values.max() < 1.4, name
    adam, _ = run(options(name="adamw", lr=1.0, b1=0.95), apart, [gradient], 1)
    for path, x in optim._flat(adam):
        if not path.startswith("blocks/") or not path.endswith("kernel"):
            np.testing.assert_allclose(x, dict(optim._flat(ours))[path], rtol=1e-6, err_msg=path)


def test_adam_s_epsilon_is_torch_s():
    golden = json.loads((GOLDEN / "adam_eps.json").read_text())
    given = golden["inputs"]
    config = options(name="adamw", lr=given["lr"], eps=given["eps"])
    params = {"w": jnp.float32(given["w0"])}
    transform, _ = optim.build(config, 10, params)
    state, seen = transform.init(params), []
    for gradient in given["grads"]:
        change, state = transform.update({"w": jnp.float32(gradient)}, state, params)
        params = optax.apply_updates(params, change)
        seen.append(float(params["w"]))
    np.testing.assert_allclose(seen, golden["outputs"]["torch_optim_Adam"], atol=1e-6)
    assert abs(seen[0] - golden["outputs"]["formula_tf1"][0]) > 1e-3


def test_frozen_parameters_have_no_state_and_do_not_count_in_the_norm():
    apart, _ = trees()
    gradient, _ = trees(1)
    config = options(freeze=r"^blocks/|^norm", clip=1.0, name="sgd", b1=0.9, lr=1.0)
    transform, _ = optim.build(config, 10, apart)
    state = transform.init(apart)
    assert sum(x.size for x in jax.tree.leaves(state)) < V * D + 10
    change, _ = transform.update(gradient, state, apart)
    norm = optax.global_norm(change)
    np.testing.assert_allclose(norm, 1.0, rtol=1e-5)
    assert float(jnp.abs(change["blocks"]["0"]["attn"]["q"]["kernel"]).max()) == 0.0


def test_decay_touches_kernels_and_embeddings_only():
    apart, _ = trees()
    zero = jax.tree.map(jnp.zeros_like, apart)
    ours, _ = run(options(weight_decay=0.5, lr=0.1), apart, [zero], 1)
    for path, x in optim._flat(ours):
        before = dict(optim._flat(apart))[path]
        factor = 0.95 if path.endswith(("kernel", "embedding")) else 1.0
        np.testing.assert_allclose(x, before * factor, rtol=1e-6, err_msg=path)


def test_adapters_decay_and_have_the_rate_of_what_they_adapt():
    """Of a run that trains adapters alone, too: its decay would match nothing."""
    half = {"a": jnp.ones((D, 2)), "b": jnp.ones((2, D))}
    params = {"lora": {"blocks": {"0": {"mlp": {"up": {"kernel": half, "bias": half}}}}}}
    zero = jax.tree.map(jnp.zeros_like, params)
    config = options(weight_decay=0.5, lr=0.1, multipliers=((r"^blocks/0/", 0.5),))
    after, _ = run(config, params, [zero], 1)
    after = after["lora"]["blocks"]["0"]["mlp"]["up"]
    for name in half:
        np.testing.assert_allclose(after["kernel"][name], 1 - 0.5 * 0.1 * 0.5, rtol=1e-6)
        np.testing.assert_array_equal(after["bias"][name], 1.0)
    with pytest.raises(
        ValueError, match='optim.freeze: "\\^blocks/" matches no .*like "lora/blocks'
    ):
        optim.build(options(freeze="^blocks/"), 10, params)


def test_state_in_bfloat16_is_half_the_first_moment():
    apart, _ = trees()
    state = optim.build(options(state_dtype="bfloat16"), 10, apart)[0].init(apart)
    kinds = {x.dtype for path, x in optim._flat(state) if "/mu/" in path}
    assert kinds == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(freeze="blokcs"), ["optim.freeze", "blokcs", "matches no parameter"]),
        (dict(freeze="."), ["optim.freeze", "every"]),
        (dict(multipliers=(("embed", 2.0), ("heda", 1.0))), ["optim.multipliers", "heda"]),
        (dict(weight_decay=0.1, decay="weight$"), ["optim.decay", "weight$"]),
        (dict(multipliers=(("blocks/attn", 2.0),)), ["blocks/attn"]),
    ],
)
def test_a_regex_that_matches_nothing_is_named(change, words):
    for tree in trees():
        with pytest.raises(ValueError) as error:
            optim.build(options(**change), 10, tree)
        assert all(word in str(error.value) for word in words), error.value


def test_schedules():
    def rates(steps=100, **changes):
        rate = optim.build(options(lr=2.0, **changes), steps, {"w": jnp.zeros(())})[1]
        return [float(rate(step)) for step in range(steps + 1)]

    cosine = rates(schedule="cosine", warmup=10, end=0.1)
    np.testing.assert_allclose(cosine[:11], [0.2 * min(i + 1, 10) for i in range(11)], rtol=1e-6)
    np.testing.assert_allclose([cosine[55], cosine[100]], [1.1, 0.2], rtol=1e-5)
    linear = rates(schedule="linear", warmup=20, end=0.0, decay_steps=60)
    np.testing.assert_allclose([linear[40], linear[60], linear[80]], [1.0, 0, 0], atol=1e-6)
    wsd = rates(schedule="wsd", warmup=10, decay_steps=20, end=0.5)
    np.testing.assert_allclose([wsd[10], wsd[80], wsd[90], wsd[100]], [2, 2, 1.5, 1.0], rtol=1e-6)
    assert rates(schedule="wsd", end=0.0)[90] == 2.0 and rates(schedule="wsd", end=0.0)[95] == 1.0
    assert rates(schedule="constant", warmup=0)[0] == 2.0
    width, warmup = 512, 40
    config = options(lr=(width * warmup) ** -0.5, schedule="inverse_root", warmup=warmup)
    rate = optim.schedule(config, 1000)
    for step in (0, 5, 38, 39, 40, 400):  # Vaswani et al. 2017, equation 3, counts from 1
        s = step + 1
        paper = width**-0.5 * min(s**-0.5, s * warmup**-1.5)
        np.testing.assert_allclose(float(rate(step)), paper, rtol=1e-5)
    rate = optim.schedule(options(lr=0.01, schedule="inverse_root", decay_steps=10_000), 10)
    np.testing.assert_allclose([float(rate(0)), float(rate(39_999))], [0.01, 0.005], rtol=1e-5)


def test_names_are_the_config_s():
    for name in configs.OPTIMIZERS:
        optim.build(options(name=name), 10, trees()[1])
    for name in configs.SCHEDULES:
        optim.build(options(schedule=name), 10, trees()[1])
    with pytest.raises(ValueError, match="adamw"):
        optim.build(options(name="adamm"), 10, trees()[0])


def undecayed(name) -> tuple[set, set]:
    """(parameters that decay leaves alone, the others) of a config's `:tiny`, layers apart.

    Told by the updates themselves: without a gradient only decay moves a parameter.
    """
    settings = configs.complete(configs.load(f"configs/{name}.py:tiny"))
    settings.optim.update(schedule="constant", warmup=0)
    o = Options.of({**settings.model.to_dict(), "vocab": 8, "layers": 1, "scan": False})
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes(o))
    zeros = jax.tree.map(np.zeros_like, params)
    moved, _ = run(settings.optim, params, [zeros], 1)
    still = {path for path, x in optim._flat(moved) if np.array_equal(x, np.ones_like(x))}
    return still, {path for path, _ in optim._flat(params)} - still


def test_bert_decays_all_but_biases_and_norms():
    """As its authors' code: nothing named LayerNorm or bias is decayed; all three tables are."""
    still, moved = undecayed("bert")
    norms = ("embed/norm", "blocks/0/attn_norm", "blocks/0/mlp_norm", "head/norm")
    projections = [
        f"blocks/0/{n}" for n in ("attn/q", "attn/k", "attn/v", "attn/o", "mlp/up", "mlp/down")
    ]
    dense = [*projections, "head/dense", "pool", "score"]
    assert still == {
        *(f"{path}/{part}" for path in norms for part in ("scale", "bias")),
        *(f"{path}/bias" for path in dense), "head/bias",
    }  # fmt: skip
    tables = [f"embed/{table}/embedding" for table in ("tokens", "positions", "types")]
    assert moved == {*(f"{path}/kernel" for path in dense), *tables}


@pytest.mark.parametrize("name", ["roberta", "albert", "longformer", "sentiment"])
def test_every_encoder_decays_what_bert_does(name):
    still, moved = undecayed(name)
    assert all(path.endswith("/bias") or "norm/" in path for path in still)
    assert all(path.endswith(("/kernel", "/embedding")) for path in moved)
