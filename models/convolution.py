"""Convolutions of images [B,H,W,C], their padding and pooling.

Kernels are [k,k,in,out], depthwise ones [k,k,1,C]. A convolution 1x1 is a matrix product.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activations import ACTIVATIONS
from models.depthwise import depthwise
from models.dropout import drop_rows
from models.layers import Norm, normal
from models.options import Options
from models.products import product


def pads(rule: str, size: int, kernel: int, stride: int) -> tuple:
    """(before, after): how many zeros pad a side of `size` pixels.

    "symmetric": k // 2 on both ends, as in torch. "same": TensorFlow's, as few as give
    ceil(size / stride) outputs, the odd one at the end; depends on the size. "kernel": at stride 1 as
    "symmetric", otherwise k // 2 - 1 and k // 2, which is "same" for even sizes and stride 2.
    """
    if rule == "same":
        whole = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return whole // 2, whole - whole // 2
    half = kernel // 2
    return (half - 1, half) if rule == "kernel" and stride > 1 and half else (half, half)


def deviation(o: Options, kernel: int, outputs: int) -> float:
    """Of a kernel's entries: init_std, or He's sqrt(2 / fan-out) (He et al. 2015b, equation 14)."""
    return math.sqrt(2 / (kernel * kernel * outputs)) if o.init == "he" else o.init_std


class Convolution(nn.Module):
    """A convolution without bias: [B,H,W,C] -> [B,H',W',out], operands in `o.dtype` unless depthwise.

    `depthwise`: every channel has a kernel of its own, and `out` is C. `rule` is of `pads`.
    """

    o: Options
    out: int
    kernel: int = 3
    stride: int = 1
    rule: str = "symmetric"
    depthwise: bool = False

    @nn.compact
    def __call__(self, x):
        o, k, inputs = self.o, self.kernel, 1 if self.depthwise else x.shape[-1]
        std = deviation(o, k, 1 if self.depthwise else self.out)
        kernel = self.param("kernel", normal(std), (k, k, inputs, self.out), jnp.float32)
        if k == 1 and not self.depthwise:
            x = x[:, :: self.stride, :: self.stride]
            return product("bhwc,cd->bhwd", x, kernel[0, 0], o.dtype)
        edges = tuple(pads(self.rule, size, k, self.stride) for size in x.shape[1:3])
        if self.depthwise:
            return depthwise(x, kernel, self.stride, edges)
        y = jax.lax.conv_general_dilated(
            x.astype(o.dtype), kernel.astype(o.dtype), (self.stride, self.stride), edges,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y.astype(x.dtype)


class Unit(nn.Module):
    """act(norm(convolution(x))); `act` names an activation, `zero` starts the norm's scale at 0."""

    o: Options
    out: int
    kernel: int = 3
    stride: int = 1
    act: str = "identity"
    rule: str = "symmetric"
    depthwise: bool = False
    zero: bool = False

    @nn.compact
    def __call__(self, x):
        x = Convolution(
            self.o, self.out, self.kernel, self.stride, self.rule, self.depthwise, name="conv"
        )(x)
        return ACTIVATIONS[self.act](Norm(self.o, self.zero, name="norm")(x))


def max_pool(x):
    """The largest of 3x3 at stride 2, one pixel of minus infinity around: [B,H,W,C] -> [B,H/2,W/2,C].

    Columns, then rows, by strided slices: the gradient of a windowed reduction is slow on CPU. Where
    entries are equal the first one, row by row, has the gradient, as in torch.
    """
    for axis in (2, 1):
        size = x.shape[axis]
        edge = [(0, 0)] * 4
        edge[axis] = (1, 1)
        padded = jnp.pad(x, edge, constant_values=-jnp.inf)
        count = (size - 1) // 2 + 1
        cut = lambda at: jax.lax.slice_in_dim(padded, at, at + 2 * count - 1, 2, axis)  # noqa: B023
        a, b, c = cut(0), cut(1), cut(2)
        x = jnp.where(a >= b, a, b)
        x = jnp.where(x >= c, x, c)
    return x


def average_pool(x):
    """The mean of 2x2 at stride 2, of what there is of them at odd edges: [B,H,W,C]."""
    sums = lambda a: jax.lax.reduce_window(a, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    return (sums(x) / sums(jnp.ones((1, *x.shape[1:3], 1), x.dtype))).astype(x.dtype)


def drop_path(x, rate: float, key):
    """Stochastic depth at a fixed rate: see `models.dropout.drop_rows`."""
    return drop_rows(x, jnp.float32(rate), key) if rate else x
