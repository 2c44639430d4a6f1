"""Where every array lives: one table of rules from parameter names to axes of the mesh.

Axes: `data` (copies of the model, different rows), `fsdp` (different rows, parameters cut), `tensor`
(the same rows, heads and hidden units cut). A rule's spec is right-aligned on the parameter's shape,
so that one rule serves a layer, a stack of layers and a bank of experts.

Policy: a parameter that no rule matches is an error. An axis of the mesh that does not divide its
dimension is left out for that parameter, which is then copied along that axis; `describe` and the
log list each such parameter, so that it never happens unseen.
"""

import math
import re
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.placement import ROWS

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ROWS

RULES = (
    (r"(embed|decoder)/tokens/embedding$", P("tensor", "fsdp")),
    (r"embed/(positions|types)/embedding$", P(None, "fsdp")),
    (r"relative/embedding$", P(None, "tensor")),
    (r"embed/(cls|dist|mask|registers)$", P(None)),
    (r"embed/patch/kernel$", P("fsdp")),
    (r"embed/patch/bias$", P(None)),
    (r"embed/project/kernel$", P(None, "fsdp")),
    (r"frames/conv[12]/kernel$", P(None, None, "fsdp")),
    (r"frames/conv[12]/bias$", P(None)),
    (r"embed/project/bias$", P(None)),
    (r"(attn|cross)/[qkv](_global)?/kernel$", P("fsdp", "tensor", None)),
    (r"(attn|cross)/[qkv](_global)?/bias$", P("tensor", None)),
    (r"(attn|cross)/o/kernel$", P("tensor", None, "fsdp")),
    (r"(attn|cross)/o/bias$", P(None)),
    (r"mlp/router/kernel$", P("fsdp", None)),
    (r"mlp/(up|gate)/kernel$", P("fsdp", "tensor")),
    (r"mlp/(up|gate)/bias$", P("tensor")),
    (r"mlp/down/kernel$", P("tensor", "fsdp")),
    (r"mlp/down/bias$", P(None)),
    (r"norm/(scale|bias)$", P(None)),
    (r"_scale/scale$", P(None)),
    (r"merge/project/kernel$", P("fsdp", None)),
    (r"head/pixels/kernel$", P("fsdp", None, None, None)),
    (r"head/pixels/bias$", P(None)),
    (r"(^|/)(head/dense|pool)/kernel$", P("fsdp", None)),
    (r"(^|/)(head/dense|pool)/bias$", P(None)),
    (r"(^|/)head/kernel$", P("fsdp", "tensor")),
    (r"(^|/)head/bias$", P("tensor")),
    (r"(^|/)score(_dist)?/", P(None)),
    (r"(conv|gate/reduce|gate/expand)/kernel$", P("fsdp")),
    (r"gate/(reduce|expand)/bias$", P(None)),
)


def mesh(sizes: Mapping) -> Mesh:
    """A mesh of `{data, fsdp, tensor}`; one size may be -1 and takes the devices that are left.

    A single process may use fewer devices than it has, if all sizes are given. Raises ValueError when
    the sizes do not fit the devices.
    """
    unknown = set(sizes) - set(AXES)
    if unknown:
        raise ValueError(f"config.mesh has no axis {unknown.pop()!r}; axes are {', '.join(AXES)}")
    shape = [int(sizes.get(axis, 1)) for axis in AXES]
    devices = jax.devices()
    if shape.count(-1) > 1 or any(n < 1 and n != -1 for n in shape):
        raise ValueError(f"config.mesh={dict(zip(AXES, shape))}: sizes are positive, one may be -1")
    if -1 in shape:
        rest = math.prod(n for n in shape if n != -1)
        if len(devices) % rest:
            raise ValueError(
                f"config.mesh={dict(zip(AXES, shape))} does not divide {len(devices)} devices"
            )
        shape[shape.index(-1)] = len(devices) // rest
    count = math.prod(shape)
    if count > len(devices) or (count < len(devices) and jax.process_count() > 1):
        raise ValueError(
            f"config.mesh={dict(zip(AXES, shape))} asks for {count} devices; there are "
            f"{len(devices)}"
        )
    return jax.make_mesh(
        tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:count]
    )


def path(keys) -> str:
    """A pytree's key path as `blocks/0/attn/q/kernel`."""
    names = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in keys)
    return "/".join(str(name) for name in names)


def spec(name: str, shape: tuple, mesh: Mesh, rules=RULES) -> tuple[P, tuple]:
    """The spec of one parameter, and the axes of the mesh that had to be left out for it.

    Raises ValueError, naming the parameter, when no rule matches it.
    """
    for pattern, wanted in rules:
        if re.search(pattern, name):
            break
    else:
        raise ValueError(f"no sharding rule matches the parameter {name!r}")
    if len(wanted) > len(shape):
        raise ValueError(
            f"the sharding rule {pattern!r} has {len(wanted)} dimensions; {name} has {len(shape)}"
        )
    axes, dropped = [None] * (len(shape) - len(wanted)) + list(wanted), []
    for i, axis in enumerate(axes):
        if axis is not None and shape[i] % mesh.shape[axis]:
            dropped.append((axis, shape[i]))
            axes[i] = None
    return P(*axes), tuple(dropped)


def params(tree, mesh: Mesh, rules=RULES):
    """Shardings of a tree of parameters (arrays or shapes)."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, x: NamedSharding(mesh, spec(path(keys), x.shape, mesh, rules)[0]), tree
    )


def like(tree, parameters, mesh: Mesh, rules=RULES):
    """Shardings of leaves that follow parameters: an optimiser's state, averages.

    A leaf belongs to the parameter whose path its own path ends with. It takes that parameter's spec
    when the shapes are equal, the spec less one axis when one dimension was reduced away (Adafactor's
    rows and columns), and is copied everywhere otherwise.
    """
    known = {
        path(keys): (x.shape, spec(path(keys), x.shape, mesh, rules)[0])
        for keys, x in jax.tree_util.tree_leaves_with_path(parameters)
    }

    def place(keys, x):
        parts = path(keys).split("/")
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in known:
                return NamedSharding(mesh, _follow(parts, x.shape, *known[name]))
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(place, tree)


def _follow(parts, shape, parameter_shape, parameter_spec) -> P:
    if shape == parameter_shape:
        return parameter_spec
    fits = [
        i
        for i in range(len(parameter_shape))
        if parameter_shape[:i] + parameter_shape[i + 1 :] == shape
    ]
    if not fits:
        return P()
    # Equal dimensions leave a choice: optax's columns lose the earlier axis, its rows the later.
    gone = fits[0] if "v_col" in parts else fits[-1]
    return P(*(axis for i, axis in enumerate(parameter_spec) if i != gone))


def state(abstract, mesh: Mesh, rules=RULES):
    """Shardings of a whole State (given as shapes)."""
    everywhere = NamedSharding(mesh, P())
    kept = params(abstract.params, mesh, rules)
    return type(abstract)(
        step=everywhere,
        params=kept,
        extra=jax.tree.map(lambda _: everywhere, abstract.extra),
        opt_state=like(abstract.opt_state, abstract.params, mesh, rules),
        carry=jax.tree.map(lambda _: everywhere, abstract.carry),
        ema=kept if jax.tree.leaves(abstract.ema) else {},
        guard=jax.tree.map(lambda _: everywhere, abstract.guard),
        ema_extra=jax.tree.map(lambda _: everywhere, abstract.ema_extra),
    )


def check_batch(batch: int, micro: int, mesh: Mesh):
    """Raises ValueError unless every device gets the same number of rows of every micro-batch."""
    rows = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch % micro:
        raise ValueError(f"config.micro={micro} does not divide config.batch={batch}")
    if batch // micro % rows:
        raise ValueError(
            f"config.batch={batch} in {micro} micro-batch(es) does not divide over data x fsdp = "
            f"{rows} devices; choose a multiple of {micro * rows}"
        )


def rows(mesh: Mesh) -> tuple[int, int]:
    """(index, count): which of how many equal slices of a batch this process reads.

    As many as there are processes, unless an axis that does not cut the batch spans some: those read
    the same slice. ValueError for a mesh whose processes' slices overlap in part.
    """
    grid = mesh.devices.reshape(-1, mesh.shape["tensor"])
    held = {}
    for place, devices in enumerate(grid):
        for device in devices:
            held.setdefault(device.process_index, set()).add(place)
    slices = sorted({tuple(sorted(places)) for places in held.values()})
    flat = [place for places in slices for place in places]
    if flat != list(range(len(grid))) or len({len(places) for places in slices}) != 1:
        raise ValueError(
            f"config.mesh={dict(mesh.shape)} gives the processes overlapping rows; let data x fsdp "
            "be a multiple of the processes, or let tensor be"
        )
    return slices.index(tuple(sorted(held[jax.process_index()]))), len(slices)


def place(batch: Mapping, mesh: Mesh) -> dict:
    """This process's rows (numpy, [b, ...]) as global arrays over ('data', 'fsdp')."""
    where = NamedSharding(mesh, P(BATCH_AXES))
    return {
        name: jax.make_array_from_process_local_data(where, np.asarray(x))
        for name, x in batch.items()
    }


def put(x, where):
    """An array that every process holds whole, laid out over all of their devices; one that lies on
    several processes' devices already, laid out anew."""
    if jax.process_count() == 1 or not getattr(x, "is_fully_addressable", True):
        return jax.device_put(x, where)
    held = np.asarray(x)
    return jax.make_array_from_callback(held.shape, where, lambda index: held[index])


def laid(tree, mesh: Mesh, rules=RULES):
    """A pytree of parameters that every process holds whole, laid out by the table."""
    return jax.tree.map(put, tree, params(tree, mesh, rules))


def place_whole(batch: Mapping, mesh: Mesh) -> dict:
    """Global rows that every process holds, as global arrays; copied where they don't divide."""
    rows = math.prod(mesh.shape[axis] for axis in BATCH_AXES)

    def where(x):
        return NamedSharding(mesh, P(BATCH_AXES) if x.ndim and x.shape[0] % rows == 0 else P())

    batch = {name: np.asarray(x) for name, x in batch.items()}
    return {name: put(x, where(x)) for name, x in batch.items()}


def whole(tree):
    """Host copies (numpy) of arrays, whatever devices and processes hold them; all processes call it."""
    spread = lambda x: not (x.is_fully_addressable or x.is_fully_replicated)
    if not any(spread(x) for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def said(x: np.ndarray) -> np.ndarray:
    """The first process's `x` in all of them, which have one of that shape and type."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.broadcast_one_to_all(x))
    return x


def left_out(tree, mesh: Mesh, rules=RULES) -> list[str]:
    """One line per parameter that an axis of the mesh does not divide."""
    lines = []
    for keys, x in jax.tree_util.tree_leaves_with_path(tree):
        for axis, size in spec(path(keys), x.shape, mesh, rules)[1]:
            lines.append(
                f"{path(keys)} {x.shape} is copied along {axis}: {mesh.shape[axis]} does not "
                f"divide {size}"
            )
    return lines


def describe(tree, shardings) -> list[str]:
    """One line per array: name, shape, type, spec, and bytes on each device."""
    lines, placed = [], jax.tree.leaves(shardings)
    for (keys, x), where in zip(jax.tree_util.tree_leaves_with_path(tree), placed, strict=True):
        local = math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize
        cut = ", ".join(str(axis) for axis in where.spec)
        lines.append(f"{path(keys)} {x.shape} {x.dtype.name} ({cut}) {local} bytes/device")
    return lines


def bytes_per_device(tree, shardings) -> int:
    """Bytes that one device holds of a tree laid out so."""
    return sum(
        math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize
        for x, where in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    )
