"""A small discrete variational autoencoder: images to a grid of visual tokens, and back.

BEiT (Bao et al. 2021) predicts the tokens of DALL-E's tokenizer, whose weights are not published as a
package; this one is trained here (`train.dvae`) and is no copy of it: a linear map of patches and a few
residual convolutions give logits over V codes for each patch, mixtures of code vectors go through as
many convolutions and a linear map back to pixels. Relaxation and loss are Ramesh et al. 2021's
(section 2.1): Gumbel softmax, and a divergence from uniform codes.
"""

import flax.linen as nn
import jax.numpy as jnp

from models.convolution import Unit
from models.initial import deviation
from models.layers import Projection, normal
from models.options import Options
from models.pixels import PixelHead, cut


class Units(nn.Module):
    """`o.layers` residual units: x + act(norm(convolution 3x3)), [B,h,w,D]."""

    o: Options

    @nn.compact
    def __call__(self, x):
        for number in range(self.o.layers):
            x = x + Unit(self.o, self.o.width, act=self.o.act, name=str(number))(x)
        return x


class Patch(nn.Module):
    """Images [B,H,W,C] to [B,h,w,D]: one linear map of every patch."""

    o: Options

    @nn.compact
    def __call__(self, images):
        o, sides = self.o, self.o.patch_sides
        pixels, grid = cut(images.astype(o.activations), sides)
        shape = (*sides, o.channels, o.width)
        project = Projection(
            "bnijc,ijcd->bnd", shape, 1, deviation(o, "patch"), o.dtype, name="patch"
        )
        return project(pixels).reshape(len(images), *grid, o.width)


class Codes(nn.Module):
    """Vectors of V codes, mixed by weights [B,h,w,V] -> [B,h,w,D]."""

    o: Options

    @nn.compact
    def __call__(self, weights):
        shape = (self.o.vocab, self.o.width)
        table = self.param("embedding", normal(1.0), shape, jnp.float32)
        return jnp.einsum("bhwv,vd->bhwd", weights, table).astype(self.o.activations)


class Encoder(nn.Module):
    """Logits [B,h,w,V], float32, over the codes of every patch."""

    o: Options

    @nn.compact
    def __call__(self, images):
        o = self.o
        x = Units(o, name="units")(Patch(o, name="embed")(images))
        head = Projection(
            "bhwd,dv->bhwv", (o.width, o.vocab), 1, o.width**-0.5, o.dtype, name="head"
        )
        return head(x.astype(jnp.float32))


class Decoder(nn.Module):
    """Images [B,H,W,C], float32, from weights [B,h,w,V] of codes."""

    o: Options

    @nn.compact
    def __call__(self, weights):
        o, grid = self.o, weights.shape[1:3]
        x = Units(o, name="units")(Codes(o, name="tokens")(weights))
        x = x.reshape(len(x), -1, o.width)
        return PixelHead(o, o.patch, name="head")(x, grid)


class DVAE(nn.Module):
    """The tokenizer of images; sides that no patch divides are refused by the loops that use it."""

    o: Options

    def setup(self):
        self.encoder = Encoder(self.o)
        self.decoder = Decoder(self.o)

    def encode(self, images):
        """Logits of the codes, [B,h,w,V] float32."""
        return self.encoder(images)

    def decode(self, weights):
        """Images from weights of codes that sum to 1, [B,h,w,V]."""
        return self.decoder(weights)

    def tokens(self, images):
        """The most probable code of every patch, int32 [B,N], row by row."""
        found = jnp.argmax(self.encoder(images), -1).astype(jnp.int32)
        return found.reshape(len(found), -1)

    def __call__(self, batch, cache=None):
        """`logits`, and `pixels` from their softmax."""
        logits = self.encoder(batch["images"])
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        return {"logits": logits, "pixels": self.decoder(weights / weights.sum(-1, keepdims=True))}
