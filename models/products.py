"""The matrix product of every layer, its gradients, and its form for a few rows.

On a CPU whose processor has no bfloat16 products, operands are rounded to bfloat16 and multiplied in
float32: the same numbers as elsewhere, without kernels that are slower than float32's own.

For a handful of rows, as in decoding on one CPU device, XLA repacks the right operand in each call,
which takes several times as long as reading it. A kernel that is the left operand, contracted over
its last axes, is read once. A token table lies so. Others are turned when decoding begins: the module
that is asked for the collection "turned" fills it, and uses it where it is given.
"""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.placement import alone, settle, widens

TURNED = "turned"
ROWS = 64  # rows up to which a turned kernel pays
SLAB, SMALL = 32, 2**19  # rows that are transposed at a time, and entries up to which all are


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def product(equation: str, x, kernel, dtype: str):
    """einsum(equation, x, kernel) with operands in `dtype`, the result in the dtype of x.

    The gradients' products round their operands likewise and accumulate in float32, so that float32
    activations with bfloat16 operands run every matrix product at bfloat16's speed.
    """
    return _product(equation, x, kernel, dtype)[0]


def _product(equation, x, kernel, dtype):
    low, weights = narrow(x, dtype), narrow(kernel, dtype)
    rows, ours, theirs = _parts(equation)
    first, second, out = re.split(",|->", equation)
    table = second == theirs + ours and first[:rows] == out[:rows]
    if table and few(math.prod(x.shape[:rows]), dtype):
        y = _left(rows, low, weights, kernel.shape[: len(theirs)]).astype(x.dtype)
    else:
        y = _einsum(equation, low, weights, x.dtype)
    return y, (low, weights, jnp.zeros((0,), x.dtype), jnp.zeros((0,), kernel.dtype))


def _product_backward(equation, dtype, saved, g):
    low, weights, x, kernel = saved
    first, second, out = re.split(",|->", equation)
    g = narrow(g, dtype)
    dx = _einsum(f"{out},{second}->{first}", g, weights, x.dtype)
    return dx, _kernel_gradient(equation, low, g, kernel.dtype)


def narrow(x, dtype):
    """x rounded to `dtype`, and in float32 still where products of `dtype` are made there."""
    if widens(dtype):
        return jax.lax.reduce_precision(x.astype(jnp.float32), 8, 7)
    return x.astype(dtype)


def _einsum(equation, a, b, dtype):
    wide = jnp.promote_types(dtype, a.dtype)
    if jax.default_backend() == "cpu":  # a processor's units for bfloat16 give float32
        wide = jnp.promote_types(wide, jnp.float32)
    return jnp.einsum(equation, a, b, preferred_element_type=wide).astype(dtype)


def _parts(equation):
    """(the number of common leading axes of x and the result, x's other axes, the result's)."""
    first, _, out = re.split(",|->", equation)
    rows = sum(letter in out for letter in first)
    return rows, first[rows:], out[rows:]


def few(rows: int, dtype) -> bool:
    """Whether so many rows, more than one, are multiplied faster with the kernel on the left."""
    return 1 < rows <= ROWS and alone() and (jnp.dtype(dtype) == jnp.float32 or widens(dtype))


def _left(rows, x, kernel, shape):
    """x, of so many leading axes, by a kernel with its contracted axes last, flat or not: the leading
    axes, then `shape`. The axis of one keeps the kernel on the left."""
    size = math.prod(x.shape[rows:])
    kernel, flat = kernel.reshape(1, -1, size), x.reshape(1, -1, size)
    return settle(jnp.einsum("bnk,bmk->bnm", kernel, flat))[0].T.reshape(*x.shape[:rows], *shape)


def transposed(x):
    """The transpose of a kernel [rows, columns], flat, so that it has a layout of its own: made once.

    Of large kernels slab by slab of rows, three to five times as fast as XLA's copy, unless their rows
    are a power of two. Both slices of the last slab stop at the edge where `SLAB` does not divide the rows.
    (Not for training: there the copy is part of what makes the activations.)
    """
    rows, columns = x.shape
    if not alone() or rows < SLAB or x.size < SMALL or rows & (rows - 1) == 0:
        return settle(x.T.reshape(-1))

    def slab(i, made):
        part = jax.lax.dynamic_slice_in_dim(x, i * SLAB, SLAB)
        return jax.lax.dynamic_update_slice_in_dim(made, part.T, i * SLAB, 1)

    made = jnp.zeros((columns, rows), x.dtype)
    return settle(jax.lax.fori_loop(0, -(-rows // SLAB), slab, made)).reshape(-1)


def own(module: nn.Module, init, shape: tuple):
    """The module's kernel; None where the turned one stands for it alone (`models.step.turned`)."""
    if module.has_variable(TURNED, "kernel") and not module.has_variable("params", "kernel"):
        return None
    return module.param("kernel", init, shape, jnp.float32)


def project(module: nn.Module, equation: str, x, kernel, shape: tuple, dtype: str):
    """`product` of a module's kernel, from `own`; by the turned one if the module has it.

    If the collection "turned" is mutable, the module's kernel is put there, flat, rounded and with its
    contracted axes last, for calls with a few rows. Those have no gradient. Alone, it does for many rows,
    too, at the same speed, and for one row, where tall kernels are read twice as fast.
    """
    rows, ours, theirs = _parts(equation)
    count = math.prod(x.shape[:rows])
    if module.has_variable(TURNED, "kernel"):
        turned, low = module.get_variable(TURNED, "kernel"), narrow(x, dtype)
        if few(count, dtype) or (kernel is None and count == 1):
            return _left(rows, low, turned, shape[len(ours) :]).astype(x.dtype)
        if kernel is None:
            first, second, out = re.split(",|->", equation)
            turned = turned.reshape(*shape[len(ours) :], *shape[: len(ours)])
            return _einsum(f"{first},{theirs}{ours}->{out}", low, turned, x.dtype)
    elif module.is_mutable_collection(TURNED) and not module.is_initializing():
        low = settle(narrow(kernel, dtype)).reshape(-1, math.prod(shape[len(ours) :]))
        module.put_variable(TURNED, "kernel", transposed(low))
    return product(equation, x, kernel, dtype)


def _kernel_gradient(equation, x, g, dtype):
    """einsum(x, g) over their common rows, in the dtype of the kernel.

    On one CPU device one operand is transposed by a copy of its own: XLA has slower products for an
    operand that is contracted over its rows (in bfloat16, none: it goes back to float32), and would
    make the activation that it often is again inside the copy, out of order. It is the first operand
    of the product, or the second where that is so much narrower that its copy and the transposed
    product's cost less (the wide layer's activations, a tied table's logits): of widths that are
    powers of two, a copy of the wider one takes as long as six products.
    """
    first, second, out = re.split(",|->", equation)
    rows, ours, theirs = _parts(equation)
    if not alone() or first[:rows] != out[:rows] or second not in (ours + theirs, theirs + ours):
        x, g = settle(x), settle(g)
        return jnp.einsum(f"{first},{out}->{second}", x, g, preferred_element_type=dtype)
    left, right = (x, g) if second == ours + theirs else (g, x)
    shape = left.shape[rows:] + right.shape[rows:]
    left, right = (settle(a).reshape(math.prod(a.shape[:rows]), -1) for a in (left, right))
    (count, wide), narrow = left.shape, right.shape[1]
    if turned := 2 * count * (wide - narrow) > 3 * wide * narrow:
        left, right = right, left
    left = settle(left.T.reshape(-1)).reshape(left.shape[::-1])  # flat: a layout of its own
    made = settle(jnp.dot(left, right, preferred_element_type=dtype))
    return (made.T if turned else made).reshape(shape)


product.defvjp(_product, _product_backward)
