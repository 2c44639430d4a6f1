"""What is asked of some slots alone is what it is among all, for less work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import body, cache, sparing
from models.build import build, example
from tests.models import test_encoder as encoders
from tests.models import tiny

SIDES = {
    "left": jnp.ones((2, 12), jnp.int32).at[0, :5].set(0),
    "none": None,
    "right": jnp.ones((2, 12), jnp.int32).at[1, 10:].set(0),
}


def batch(side):
    mask = SIDES[side]
    return {"tokens": tiny.tokens(), **({} if mask is None else {"mask": mask})}


def states(model, last=0, **more):
    """A compiled function of variables and a batch: the states of the last slots."""

    @jax.jit
    def run(variables, given):
        return model.apply(variables, given, method="features", last=last, **more)[0]

    return run


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", tiny.NAMES)
def test_the_last_slots_states_and_gradients(name, side):
    _, model, variables = tiny.model(name)
    given = batch(side)
    real = jnp.ones((2, 12)) if SIDES[side] is None else SIDES[side]

    def both(last):
        def loss(variables):
            x = states(model, last)(variables, given)[:, -4:]
            return jnp.sum(jnp.sin(x) * real[:, -4:, None]), x

        (_, x), grads = jax.value_and_grad(loss, has_aux=True)(variables)
        return x, grads["params"]

    (whole, wanted), (part, found) = both(0), both(4)
    assert part.shape == (2, 4, 32) and states(model, 4)(variables, given).shape == (2, 4, 32)
    assert tiny.close(part * real[:, -4:, None], whole * real[:, -4:, None])
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    assert all(tiny.close(a, b, 1e-4) for a, b in leaves)


def test_a_relative_bias_is_that_of_the_last_queries():
    _, model, variables = tiny.model("gpt2", positions="relative", buckets=8)
    whole = states(model)(variables, batch("left"))[:, -4:]
    assert tiny.close(states(model, 4)(variables, batch("left")), whole)


def test_a_last_block_of_local_attention():
    o, model, variables = tiny.model("gpt3", layers=2, window=3)
    assert o.kinds()[-1] == "local"
    for side in SIDES:
        whole = states(model)(variables, batch(side))[:, -5:]
        assert tiny.close(states(model, 5)(variables, batch(side))[:, :3], whole[:, :3])
    assert not np.allclose(
        whole, states(model.clone(o=o.replace(window=12)))(variables, batch(side))[:, -5:]
    )


def test_segments_and_the_scores_of_a_reward_model():
    o = tiny.options("gpt2", head="classify", labels=1)
    model = build(o)
    variables = jax.jit(model.init)(jax.random.key(0), example(o))
    segments = jnp.repeat(jnp.asarray([[1, 2, 3]]), 4, 1).repeat(2, 0)
    given = {"tokens": tiny.tokens(), "segments": segments}
    whole = states(model)(variables, given)[:, -6:]
    assert tiny.close(states(model, 6)(variables, given), whole)
    for side in SIDES:
        run = jax.jit(lambda v, g, last: model.apply(v, g, last=last)["scores"], static_argnums=2)
        found = run(variables, batch(side), 4)
        np.testing.assert_allclose(found, run(variables, batch(side), 0), atol=1e-5)


def flops(model, last, variables, given, **more):
    lowered = states(model, last, **more).lower(variables, given)
    return lowered.compile().cost_analysis()["flops"]


def test_the_last_block_is_spared_the_others():
    o, model, variables = tiny.model("gpt2")
    given = batch("left")
    whole, part = (flops(model, last, variables, given) for last in (0, 1))
    block = (
        24 * 2 * (o.width * o.width * 2 + 2 * o.width * o.hidden)
    )  # queries, output, feed-forward
    assert whole - part > 0.9 * block * 11 / 12


@pytest.mark.parametrize(
    ("why", "changes", "more"),
    [
        ("layers stacked", {"scan": True}, {}),
        ("dropout", {"drop_resid": 0.5}, {"rngs": {"dropout": jax.random.key(1)}}),
        ("experts", {"experts": 3}, {}),
    ],
)
def test_where_all_slots_are_needed_they_are_made(why, changes, more):
    _, model, variables = tiny.model("gpt2", **changes)
    given = batch("left")
    whole, part = (states(model, last, **more)(variables, given) for last in (0, 5))
    np.testing.assert_allclose(part, whole[:, -5:], atol=2e-5, err_msg=why)


@pytest.mark.parametrize("asked", ["maps", "hidden"])
def test_what_is_collected_is_of_all_slots(asked):
    o, model, variables = tiny.model("gpt2")
    (x, _), found = model.apply(
        variables, batch("left"), method="features", last=3, mutable=[asked]
    )
    [made] = jax.tree.leaves(found)
    assert x.shape[1] == 3 and made.shape[2 + (asked == "maps")] == 12


def test_a_cache_keeps_all_slots_and_several_devices_make_them(monkeypatch):
    o, model, variables = tiny.model("gpt2")
    given = batch("left")
    whole, _ = model.apply(variables, given, method="features")
    cut = lambda begin, end: {name: x[:, begin:end] for name, x in given.items()}
    _, out = model.apply(variables, cut(0, 5), cache.init(o, 2, 14), method="features")
    x, out = model.apply(variables, cut(5, 12), out["cache"], method="features", last=3)
    np.testing.assert_allclose(x, whole[:, -3:], atol=2e-5)
    assert bool(jnp.abs(out["cache"]["k"][-1][:, :, :12]).sum(-1).all())
    monkeypatch.setattr(body, "alone", lambda: False)
    monkeypatch.setattr(sparing.Last, "within", None)
    np.testing.assert_allclose(states(model, 3)(variables, given), whole[:, -3:], atol=2e-5)


ENCODERS = ("bert", "roberta", "albert")
SLOTS = jnp.asarray([[5, 0, 11, 5], [9, 2, 2, 3]])


def encoder(name, **changes):
    made = encoders.model(name, **{"layers": 2, **changes})
    segments = jnp.repeat(jnp.asarray([[1, 2, 0], [3, 3, 4]]), 4, 1)
    return *made, {"tokens": encoders.tokens(2), "segments": segments}


def named(model, slots, method="features"):
    @jax.jit
    def run(variables, given, **more):
        return model.apply(variables, given, slots=slots, method=method, **more)[0]

    return run


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_named_slots_states_and_gradients(name, packed):
    _, model, variables, given = encoder(name)
    if not packed:
        given = {"tokens": given["tokens"], "mask": SIDES["left"]}
    pick = lambda x: jnp.take_along_axis(x, SLOTS[..., None], 1)

    def both(spared):
        def loss(variables):
            run = named(model, SLOTS if spared else None)
            x = run(variables, given)
            x = x if spared else pick(x)
            return jnp.sum(jnp.sin(x)), x

        (_, x), grads = jax.value_and_grad(loss, has_aux=True)(variables)
        return x, grads["params"]

    (whole, wanted), (part, found) = both(False), both(True)
    assert part.shape == (2, 4, 32)
    assert tiny.close(part, whole)
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    assert all(tiny.close(a, b, 2e-4) for a, b in leaves)


def test_the_last_block_is_spared_slots_that_are_not_named():
    o, model, variables, given = encoder("bert")
    cost = lambda slots: (
        named(model, slots).lower(variables, given).compile().cost_analysis()["flops"]
    )
    block = 24 * 2 * (o.width * o.width * 2 + 2 * o.width * o.hidden)
    assert cost(None) - cost(SLOTS[:, :1]) > 0.9 * block * 11 / 12


@pytest.mark.parametrize(
    ("why", "name", "changes"),
    [
        ("layers stacked", "bert", {"scan": True}),
        ("experts", "bert", {"experts": 3}),
        ("windows", "longformer", {"windows": (4, 4)}),
        ("causality", "gpt2", {}),
        ("rotation", "llama", {"causal": False}),
        ("a bias", "gpt2", {"positions": "relative", "buckets": 8, "causal": False}),
    ],
)
def test_where_all_slots_are_needed_the_named_ones_are_picked(why, name, changes):
    if name in tiny.NAMES:
        _, model, variables = tiny.model(name, **changes)
        given = {"tokens": tiny.tokens()}
    else:
        _, model, variables, given = encoder(name, **changes)
        del given["segments"]
    whole = named(model, None)(variables, given)
    found = named(model, SLOTS)(variables, given)
    wanted = jnp.take_along_axis(whole, SLOTS[..., None], 1)
    np.testing.assert_allclose(found, wanted, atol=2e-5, err_msg=why)


@pytest.mark.parametrize("asked", ["maps", "hidden"])
def test_what_is_collected_is_of_all_slots_where_some_are_named(asked):
    _, model, variables, given = encoder("bert")
    (x, _), found = model.apply(variables, given, slots=SLOTS, method="features", mutable=[asked])
    [made] = jax.tree.leaves(found)
    assert x.shape[1] == 4 and made.shape[2 + (asked == "maps")] == 12


@pytest.mark.parametrize("read", [None, jnp.asarray([3, 7]), SLOTS])
@pytest.mark.parametrize(
    "head, more",
    [("classify", {"labels": 3}), ("pair", {}), ("embed", {}), ("embed", {"pool": "mean"}),
     ("choice", {}), ("tokens", {"labels": 3}), ("spans", {})],
)  # fmt: skip
def test_judged_gives_the_scores_of_all_states(head, more, read):
    _, model, variables, given = encoder("bert", head=head, **more)
    given = {"tokens": given["tokens"], "mask": SIDES["left"]}
    if head == "choice":
        given = {name: x.reshape(2, 2, 6) for name, x in given.items()}
        read = None if read is None else jnp.asarray([1, 5, 2, 0])
    if read is not None:
        given["read"] = read
    run = lambda method: jax.jit(lambda v, g: model.apply(v, g, method=method))(variables, given)
    found, wanted = run("judged"), run(encoders._both)[1]
    assert found.shape == wanted.shape and tiny.close(found, wanted)


def test_dropout_acts_on_named_slots():
    _, model, variables, given = encoder("bert", drop_resid=0.5)
    run = named(model, SLOTS)
    one, other = (run(variables, given, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert not np.allclose(one, other)
    assert np.array_equal(one, run(variables, given, rngs={"dropout": jax.random.key(1)}))


@pytest.mark.parametrize("head", ["masked", "pretrain"])
def test_picked_gives_states_and_the_pairs_scores(head):
    _, model, variables, given = encoder("bert", head=head)
    given = {"tokens": given["tokens"], "mask": SIDES["left"]}
    run = jax.jit(lambda v, g: model.apply(v, g, SLOTS, method="picked"))
    x, scores = run(variables, given)
    if head == "pretrain":
        whole, wanted = encoders.both(model, variables, given)
        assert tiny.close(scores, wanted)
    else:
        whole = named(model, None)(variables, given)
        assert scores is None
    assert tiny.close(x, jnp.take_along_axis(whole, SLOTS[..., None], 1))
