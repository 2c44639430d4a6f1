"""The table of sharding rules, what follows it, and that meshes agree."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import families
from models.build import shapes
from models.convnets import KINDS as CONVNETS
from models.options import Options
from tests.train import toy
from train.core import shard
from train.core.state import fresh, make_step

MESHES = {"1,1,1": (1, 1, 1), "8,1,1": (8, 1, 1), "1,8,1": (1, 8, 1), "2,2,2": (2, 2, 2)}


def mesh(*sizes):
    return shard.mesh(dict(zip(shard.AXES, sizes, strict=True)))


def small(**more):
    row = families.row("gpt2", "124m")
    return Options.of(
        {**row, "vocab": 32, "context": 8, "layers": 2, "width": 16, "heads": 4, **more}
    )


def test_mesh_sizes():
    assert dict(mesh(-1, 2, 1).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh(2, 2, 2).axis_types)
    assert mesh(1, 1, 1).size == 1
    for sizes, words in (
        ((3, -1, 1), "does not divide 8"),
        ((4, 4, 1), "asks for 16"),
        ((-1, -1, 1), "one may be -1"),
        ((0, 1, 1), "positive"),
    ):
        with pytest.raises(ValueError, match=words):
            mesh(*sizes)
    with pytest.raises(ValueError, match="'model'"):
        shard.mesh({"model": 2})


EXPECTED = {
    "embed/tokens/embedding": ("tensor", "fsdp"),
    "embed/positions/embedding": (None, "fsdp"),
    "blocks/0/attn/q/kernel": ("fsdp", "tensor", None),
    "blocks/1/attn/v/bias": ("tensor", None),
    "blocks/0/attn/o/kernel": ("tensor", None, "fsdp"),
    "blocks/0/mlp/up/kernel": ("fsdp", "tensor"),
    "blocks/0/mlp/down/kernel": ("tensor", "fsdp"),
    "blocks/0/mlp_norm/scale": (None,),
    "norm/bias": (None,),
}


def test_every_parameter_is_really_sharded_as_the_table_says():
    where = mesh(2, 2, 2)
    tree = shapes(small())
    made = jax.jit(
        lambda: jax.tree.map(lambda x: jax.numpy.zeros(x.shape), tree),
        out_shardings=shard.params(tree, where),
    )()
    found = {shard.path(k): x for k, x in jax.tree_util.tree_leaves_with_path(made)}
    for name, axes in EXPECTED.items():
        assert found[name].sharding.spec == P(*axes), name
    for name, x in found.items():
        spec, dropped = shard.spec(name, x.shape, where)
        assert not dropped
        assert x.sharding.is_equivalent_to(NamedSharding(where, spec), x.ndim), name
        cut = np.prod([where.shape[axis] for axis in spec if axis])
        assert x.addressable_shards[0].data.size * cut == x.size, name


def test_stacked_layers_and_experts_take_the_same_rules():
    where = mesh(2, 2, 2)
    scanned = shard.params(shapes(small(scan=True)), where)
    assert scanned["blocks"]["attn"]["q"]["kernel"].spec == P(None, "fsdp", "tensor", None)
    assert scanned["blocks"]["attn_norm"]["scale"].spec == P(None, None)
    moe = shard.params(shapes(small(experts=4, gated=True)), where)
    assert moe["blocks"]["0"]["mlp"]["gate"]["kernel"].spec == P(None, "fsdp", "tensor")
    assert moe["blocks"]["0"]["mlp"]["router"]["kernel"].spec == P("fsdp", None)


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_every_family_has_a_rule_for_every_parameter(family):
    for size in families.sizes(family):
        row = families.row(family, size)
        o = Options.of(row if row["depths"] else {**row, "layers": 1})
        placed = jax.tree.leaves(shard.params(shapes(o), mesh(2, 2, 2)))
        axis = "fsdp" if o.kind in CONVNETS else "tensor"
        assert any(axis in where.spec for where in placed)


def test_no_rule_is_an_error_that_names_the_parameter():
    with pytest.raises(ValueError, match="blocks/0/attn/lora_a"):
        shard.params({"blocks": {"0": {"attn": {"lora_a": np.zeros(4)}}}}, mesh(2, 2, 2))


def test_an_axis_that_does_not_divide_is_left_out_and_listed():
    where = mesh(2, 2, 2)
    tree = {"embed": {"tokens": {"embedding": np.zeros((33, 16), np.float32)}}}
    assert shard.params(tree, where)["embed"]["tokens"]["embedding"].spec == P(None, "fsdp")
    (line,) = shard.left_out(tree, where)
    assert "embed/tokens/embedding" in line
    assert "tensor" in line
    assert "33" in line


OPTIMIZERS = {
    "adamw": optax.adamw(1e-3),
    "adafactor": optax.adafactor(1e-3, min_dim_size_to_factor=8),
    "masked": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.adam(1e-3), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    ),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("scan", [False, True])
def test_every_optimiser_leaf_follows_its_parameter(name, scan):
    where = mesh(2, 2, 2)
    params = shapes(small(scan=scan))
    specs = {
        shard.path(k): (x.shape, shard.spec(shard.path(k), x.shape, where)[0])
        for k, x in jax.tree_util.tree_leaves_with_path(params)
    }
    state = jax.eval_shape(OPTIMIZERS[name].init, params)
    placed = jax.tree_util.tree_leaves_with_path(shard.like(state, params, where))
    kinds = set()
    for (keys, sharding), x in zip(placed, jax.tree.leaves(state), strict=True):
        leaf = shard.path(keys)
        owners = [p for p in specs if leaf.endswith(f"/{p}")]
        if not owners:
            assert sharding.spec == P(), leaf
            continue
        shape, spec = specs[max(owners, key=len)]
        if x.shape == shape:
            kinds.add("same")
            assert sharding.spec == spec, leaf
        elif x.shape == (1,):  # where Adafactor keeps nothing
            assert sharding.is_fully_replicated, leaf
        elif len(x.shape) == len(shape) - 1:
            kinds.add("reduced")
            # whatever is kept is cut as in the parameter, where the dimensions tell which is gone
            sizes = dict(zip(shape, spec, strict=True))
            if len(sizes) == len(shape):
                assert tuple(sharding.spec) == tuple(sizes[n] for n in x.shape), leaf
        sharding.shard_shape(x.shape)
    assert kinds == ({"same", "reduced"} if name == "adafactor" else {"same"})


def test_square_rows_and_columns_lose_the_right_axis():
    where = mesh(2, 2, 2)
    params = {"blocks": {"0": {"mlp": {"up": {"kernel": np.zeros((8, 8), np.float32)}}}}}
    state = {
        "v_row": jax.tree.map(lambda x: x[0], params),
        "v_col": jax.tree.map(lambda x: x[0], params),
    }
    out = shard.like(state, params, where)
    get = lambda tree: tree["blocks"]["0"]["mlp"]["up"]["kernel"].spec
    assert get(out["v_row"]) == P("fsdp")
    assert get(out["v_col"]) == P("tensor")


def test_meshes_agree_in_loss_and_gradients():
    """Toy model here; the real decoder in test_lm."""
    ends, first = {}, toy.batch(0, 0, 16)
    for name, sizes in MESHES.items():
        where, task, tx = mesh(*sizes), toy.task(), optax.sgd(1.0)
        make = lambda task=task, tx=tx: fresh(task, tx, 0, False)
        with jax.set_mesh(where):
            kept = shard.state(jax.eval_shape(make), where)
            state = jax.jit(make, out_shardings=kept)()
            step = make_step(task, tx, seed=0, micro=2, shardings=kept)
            before = jax.device_get(state.params)
            state, metrics = step(state, (), shard.place(first, where))
            up = state.params["blocks"]["0"]["mlp"]["up"]["kernel"]
            assert up.sharding.is_equivalent_to(NamedSharding(where, P("fsdp", "tensor")), 2)
            after = jax.device_get(state.params)
        ends[name] = float(metrics["loss"]), jax.tree.map(np.subtract, before, after)
    loss, grads = ends["1,1,1"]
    for name, (other, others) in ends.items():
        assert abs(other - loss) < 2e-6, name
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(others), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6, err_msg=name)


def test_micro_batches_stay_on_their_devices():
    where = mesh(4, 2, 1)
    from train.core.state import split

    with jax.set_mesh(where):
        placed = shard.place({"tokens": np.arange(32, dtype=np.int32)}, where)
        out = jax.jit(lambda b: split(b, 2))(placed)["tokens"]
        text = jax.jit(lambda b: split(b, 2)).lower(placed).compile().as_text()
    assert sorted(np.asarray(out).ravel().tolist()) == list(range(32))
    for word in ("all-gather", "all-to-all", "collective-permute"):
        assert word not in text
    assert not out.sharding.is_fully_replicated


def test_describe_and_bytes():
    where = mesh(2, 2, 2)
    tree = {"mlp": {"up": {"kernel": jax.ShapeDtypeStruct((8, 16), np.float32)}}}
    placed = shard.params(tree, where)
    (line,) = shard.describe(tree, placed)
    assert "mlp/up/kernel (8, 16) float32 (fsdp, tensor) 128 bytes/device" == line
    assert shard.bytes_per_device(tree, placed) == 128
