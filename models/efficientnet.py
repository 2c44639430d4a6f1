"""EfficientNets (Tan and Le 2019): B0 to B7 and the Lite form, of inverted residual blocks with gates.

`padding` "same" is the authors', which depends on the size of what is padded; "symmetric" is torch's and
"kernel" transformers'. The three agree where the side is odd and the stride 1; weights trained with one
want that one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activations import ACTIVATIONS
from models.convnet import ConvNet, Stages
from models.convnets import rounded
from models.convolution import Unit, deviation, drop_path
from models.gradients import add_bias
from models.layers import normal
from models.options import Options
from models.products import product


def inner(o: Options, inputs: int, stage: int) -> int:
    """Channels inside a block: inputs * expands, rounded to a multiple of `expand_unit` within 10 %."""
    factor = o.expands[stage]
    return inputs if factor == 1 else rounded(inputs * factor, o.expand_unit)


def gates(o: Options, inputs: int, stage: int) -> int:
    """Channels in the middle of a gate of a block with so many inputs."""
    if o.squeeze_nearest:
        return max(1, round(inner(o, inputs, stage) * (o.squeeze / o.expands[stage])))
    return max(1, int(inputs * o.squeeze))


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2017): x * sigmoid(expand(act(reduce(mean x)))), by channel."""

    o: Options
    size: int

    @nn.compact
    def __call__(self, x):
        o, c = self.o, x.shape[-1]
        y = jnp.mean(x, (1, 2), dtype=jnp.float32).astype(x.dtype)
        y = ACTIVATIONS[o.act](Layer(o, (1, 1, c, self.size), name="reduce")(y))
        y = jax.nn.sigmoid(Layer(o, (1, 1, self.size, c), name="expand")(y))
        return x * y[:, None, None]


class Layer(nn.Module):
    """A convolution 1x1 with a bias, of a map with one place: [B,C] -> [B,C']."""

    o: Options
    shape: tuple

    @nn.compact
    def __call__(self, x):
        std = deviation(self.o, 1, self.shape[-1])
        kernel = self.param("kernel", normal(std), self.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), self.shape[-1:], jnp.float32)
        return add_bias(product("bc,cd->bd", x, kernel[0, 0], self.o.dtype), bias)


class Inverted(nn.Module):
    """Expand 1x1, depthwise kxk, gate, project 1x1 without an activation, plus x where shapes allow."""

    o: Options
    stage: int
    place: int
    number: int
    rate: float

    @nn.compact
    def __call__(self, x, key=None):
        o, stage, inputs = self.o, self.stage, x.shape[-1]
        stride = o.strides[stage] if self.place == 0 else 1
        width, out = inner(o, inputs, stage), o.widths[stage]
        rule = "symmetric" if self.number in o.square else o.padding
        y = x
        if o.expands[stage] != 1:
            y = Unit(o, width, 1, 1, o.act, name="expand")(y)
        y = Unit(o, width, o.kernels[stage], stride, o.act, rule, True, name="depth")(y)
        if o.squeeze:
            y = Gate(o, gates(o, inputs, stage), name="gate")(y)
        y = Unit(o, out, 1, zero=o.zero_last, name="project")(y)
        skips = stride == 1 and inputs == out and (self.place > 0 or o.first_skips)
        return x + drop_path(y, self.rate, key) if skips else y


class EfficientNet(ConvNet):
    """Stem, stages of inverted residual blocks, a convolution 1x1, mean, linear layer."""

    def _blocks(self):
        return Stages(self.o, Inverted, sum(self.o.depths))
