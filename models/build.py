"""From options to a model."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.decoder import Decoder
from models.dvae import DVAE
from models.efficientnet import EfficientNet
from models.encdec import EncoderDecoder
from models.encoder import Encoder
from models.options import Options
from models.resnet import ResNet
from models.swin import Swin
from models.vit import ViT

KINDS = {
    "decoder": Decoder, "encoder": Encoder, "encdec": EncoderDecoder, "resnet": ResNet,
    "efficientnet": EfficientNet, "vit": ViT, "swin": Swin,
    "dvae": DVAE,
}  # fmt: skip
IMAGES = ("resnet", "efficientnet", "vit", "swin", "dvae")  # kinds that read `images`


def build(o: Options) -> nn.Module:
    """The module that the options describe."""
    return KINDS[o.kind](o)


def example(o: Options, batch: int = 1, time: int = 1) -> dict:
    """A batch of zeros [B,T] (choices: [B,1,T]; images: [B,H,W,C]) to initialise or compile with."""
    if o.kind in IMAGES:
        shape = (batch, o.image_size, o.image_width or o.image_size, o.channels)
        return {"images": jnp.zeros(shape, jnp.float32)}
    shape = (batch, 1, time) if o.head == "choice" else (batch, time)
    out = {"tokens": jnp.zeros(shape, jnp.int32)}
    if o.frames:
        out = {"frames": jnp.zeros((batch, 2 * time, o.frames), jnp.float32)}
    if o.kind == "encdec":
        out["decoder_tokens"] = jnp.zeros(shape, jnp.int32)
    elif o.cross:
        out["encoded"] = jnp.zeros((batch, time, o.width), jnp.float32)
    return out


def shapes(o: Options) -> dict:
    """The parameter tree as shapes and dtypes; nothing is allocated."""
    return jax.eval_shape(build(o).init, jax.random.key(0), example(o))["params"]


def count(o: Options) -> int:
    """The number of parameters; the scanned form is the same and quicker to trace."""
    leaves = jax.tree.leaves(shapes(o.replace(scan=True)))
    return sum(math.prod(leaf.shape) for leaf in leaves)
