"""Where activations and tables lie on a mesh of devices; nothing at all where there is no mesh.

The axes are those of `train.core.shard`: `data`, `fsdp` and `tensor`. Parameters are cut along
`fsdp` to be kept and gathered to be used (Rajbhandari et al. 2020, ZeRO-3); rows stay where they are.
Saying so where a table is looked up keeps XLA from copying all activations to every device.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

ROWS = ("data", "fsdp")


def place(x, *axes):
    """`x` with dimension i laid out over `axes[i]`: the name of a mesh axis, several, or None.

    Dimensions beyond `axes` are not cut. Axes that the current mesh lacks or that do not divide
    their dimension are left out; without a mesh, or inside a `shard_map`, `x` is returned as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not mesh.are_all_axes_auto:
        return x
    return jax.lax.with_sharding_constraint(x, P(*map(_fitting, axes, x.shape, [mesh] * x.ndim)))


def settle(x):
    """`x`, made once and in its own layout where the program is for a single CPU device.

    XLA's CPU compiler otherwise makes a cheap array again inside each operation that reads it: a sum
    of residuals inside every norm behind it, an activation inside the strided copy that a transposed
    product wants. It does so in whole steps only under `train.core.state`'s compiler options.
    Elsewhere `x` as it is.
    """
    return jax.lax.optimization_barrier(x) if alone() else x


def alone() -> bool:
    """Whether what is traced now is for one CPU device."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() == "cpu" and (mesh.empty or mesh.size == 1)


def precise() -> bool:
    """Whether products in float32 are float32's: accelerators round operands unless told otherwise."""
    asked = jax.config.jax_default_matmul_precision
    return jax.default_backend() == "cpu" or asked in ("highest", "float32")


def widens(dtype) -> bool:
    """Whether products in `dtype` are made in float32, of rounded operands: bfloat16's on a CPU of the
    x86 family whose processor has none."""
    return (
        jnp.dtype(dtype) == jnp.bfloat16 and jax.default_backend() == "cpu" and not _has_bfloat16()
    )


@functools.cache
def _has_bfloat16() -> bool:
    try:
        return multiplies_bfloat16(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return True


def multiplies_bfloat16(cpuinfo: str) -> bool:
    """Whether the processor has products of bfloat16, by Linux's `/proc/cpuinfo`; yes if that is
    another family's, which lists no flags."""
    flags = set(("\n" + cpuinfo).partition("\nflags")[2].partition("\n")[0].split())
    return not flags or bool(flags & {"avx512_bf16", "amx_bf16"})


def _fitting(axes, size: int, mesh):
    """The axes of one dimension that the mesh has, or None where they do not divide it."""
    axes = (axes,) if isinstance(axes, str) else axes or ()
    axes = tuple(axis for axis in axes if axis in mesh.shape)
    count = 1
    for axis in axes:
        count *= mesh.shape[axis]
    return axes if axes and size % count == 0 else None
