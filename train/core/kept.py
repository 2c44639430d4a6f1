"""What a loss keeps for its gradient, by a trace of it: activations of any model, without compiling.

Rematerialisation, stacked layers and closed-form gradients are in the trace as they are in the step.
What XLA makes of it differs: it fuses, and needs room to work beside what is kept.
"""

import math

import jax
from jax.sharding import Mesh

from train.core import shard
from train.core.state import Task


def bytes_per_device(task: Task, mesh: Mesh, abstract, rows: dict) -> int:
    """Bytes of one device that `task.loss` keeps of a micro-batch between its two passes.

    abstract: a State of shapes; rows: {name: ShapeDtypeStruct} of a micro-batch of all devices. Counted
    is what depends on the rows: parameters in another type are fused into what reads them.
    """

    def keeps(rows, key, params, frozen, extra):
        totals = dict(task.totals(rows))
        if task.window is not None:
            totals |= task.window(params, frozen, extra, rows)
        loss = lambda params: task.loss(params, frozen, extra, rows, key, totals)
        return jax.tree.leaves(jax.vjp(loss, params, has_aux=True)[1])

    key = jax.eval_shape(lambda: jax.random.key(0))
    frozen = jax.eval_shape(lambda: task.frozen)
    with jax.set_mesh(mesh):
        traced = jax.make_jaxpr(keeps)(rows, key, abstract.params, frozen, abstract.extra).jaxpr
    count = len(jax.tree.leaves((rows, key)))
    depends = _depends(traced, [number < count for number in range(len(traced.invars))])
    own = {*traced.invars, *traced.constvars}
    kept = {x for x, here in zip(traced.outvars, depends, strict=True) if here and x not in own}
    cut = math.prod(mesh.shape[axis] for axis in shard.BATCH_AXES)
    return sum(math.prod(x.aval.shape) * x.aval.dtype.itemsize for x in kept) // cut


def _depends(jaxpr, given) -> list:
    """Which outputs of a jaxpr depend on those of its inputs that `given` marks."""
    marked = {x for x, here in zip(jaxpr.invars, given, strict=True) if here}
    here = lambda x: not hasattr(x, "val") and x in marked  # what has a value is a constant
    for step in jaxpr.eqns:
        inputs, inner = [here(x) for x in step.invars], step.params.get("jaxpr")
        found = [any(inputs)] * len(step.outvars)
        if step.primitive.name in ("jit", "pjit"):
            found = _depends(inner.jaxpr, inputs)
        marked |= {x for x, there in zip(step.outvars, found, strict=True) if there}
    return [here(x) for x in jaxpr.outvars]
