"""Residual networks (He et al. 2015), sizes 18 to 152.

The options tell the forms apart: `stride_early` puts a bottleneck's stride on its first 1x1 as the paper
does, otherwise it is on the 3x3 ("v1.5", what torchvision and its descendants call ResNet);
`shortcut_pool` with three convolutions 3x3 as the stem is ResNet-D (He et al. 2018); a stem of one 3x3
of stride 1 without a pool is for small images (He et al. 2015, section 4.2).
"""

import flax.linen as nn

from models.activations import ACTIVATIONS
from models.convnet import ConvNet, Stages
from models.convolution import Unit, average_pool, drop_path
from models.options import Options


class Residual(nn.Module):
    """act(x + branch(x)), the shortcut projected where the shape changes: [B,H,W,C] -> [B,H',W',C'].

    The branch is `a` 3x3, `b` 3x3, or as a bottleneck `a` 1x1, `b` 3x3, `c` 1x1.
    """

    o: Options
    stage: int
    place: int
    number: int
    rate: float

    @nn.compact
    def __call__(self, x, key=None):
        o, out = self.o, self.o.widths[self.stage]
        stride = o.strides[self.stage] if self.place == 0 else 1
        act = o.inner_act or o.act
        if o.bottleneck:
            first, second = (stride, 1) if o.stride_early else (1, stride)
            y = Unit(o, out // 4, 1, first, act, name="a")(x)
            y = Unit(o, out // 4, 3, second, act, o.padding, name="b")(y)
            y = Unit(o, out, 1, zero=o.zero_last, name="c")(y)
        else:
            y = Unit(o, out, 3, stride, act, o.padding, name="a")(x)
            y = Unit(o, out, 3, rule=o.padding, zero=o.zero_last, name="b")(y)
        if x.shape[-1] != out or stride != 1:
            if o.shortcut_pool and stride != 1:
                x, stride = average_pool(x), 1
            x = Unit(o, out, 1, stride, name="shortcut")(x)
        return ACTIVATIONS[o.act](x + drop_path(y, self.rate, key))


class ResNet(ConvNet):
    """Stem, stages of residual blocks, mean, linear layer. Rates of stochastic depth end at the last."""

    def _blocks(self):
        return Stages(self.o, Residual, sum(self.o.depths) - 1)
