"""From pixels to patches and back: the embedding of patches, the pixel head and its loss."""

import math

import flax.linen as nn
import jax.numpy as jnp

from models.dropout import drop
from models.grids import Positions
from models.initial import deviation
from models.layers import Norm, Projection, normal
from models.options import Options


def cut(images, sides: tuple):
    """Images [B,H,W,C] to the pixels of their patches [B,N,h,w,C], row by row, and the grid."""
    batch, height, width, channels = images.shape
    grid = height // sides[0], width // sides[1]
    x = images.reshape(batch, grid[0], sides[0], grid[1], sides[1], channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, *sides, channels), grid


class Patches(nn.Module):
    """Images [B,H,W,C] to tokens [B,prefix + N,D] and the grid (rows, columns) of their patches.

    A linear map of each patch (Dosovitskiy et al. 2020, equation 1), CLS, DeiT's distillation token
    (Touvron et al. 2020) and registers before them, positions added. `masked` [B,N] (1 = masked) puts
    the mask token in place of patches (Bao et al. 2021, Xie et al. 2021). A rest of the image that
    fills no patch is left out, or with `fill` padded with zeros.
    """

    o: Options
    fill: bool = False

    @nn.compact
    def __call__(self, images, masked=None, key=None):
        o, sides = self.o, self.o.patch_sides
        check(o, images, masked, self.fill)
        sizes = zip(images.shape[1:3], sides, strict=True)
        if self.fill:
            more = [(0, -size % side) for size, side in sizes]
            images = jnp.pad(images, ((0, 0), *more, (0, 0)))
        else:
            height, width = (size // side * side for size, side in sizes)
            images = images[:, :height, :width]
        pixels, grid = cut(images.astype(o.activations), sides)
        shape = (*sides, o.channels, o.width)
        project = Projection(
            "bnijc,ijcd->bnd", shape, int(o.patch_bias), deviation(o, "patch"), o.dtype,
            name="patch",
        )  # fmt: skip
        x = project(pixels)
        swin = o.kind == "swin"
        if swin and o.embed_norm:
            x = Norm(o.replace(norm_eps=o.patch_eps), name="norm")(x)
        first = lambda name, *rows: self.param(
            name, normal(o.init_tokens), (*rows, o.width), jnp.float32
        )
        if o.mask_token:
            token = first("mask").astype(x.dtype)
            if masked is not None:
                x = jnp.where(masked.reshape(*x.shape[:2], 1) != 0, token, x)
        before = [first("cls")[None]] if o.cls_token else []
        before += [first("dist")[None]] if o.dist_token else []
        before += [first("registers", o.registers)] if o.registers else []
        if before:
            token = jnp.concatenate(before).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), *token.shape)), x], 1)
        if o.positions != "none":
            x = x + Positions(o, name="positions")(grid).astype(x.dtype)
        if not swin and o.embed_norm:
            x = Norm(o, name="norm")(x)
        return drop(x, o.drop_embed, key), grid


def check(o: Options, images, masked, fill: bool):
    """ValueError for images that the model cannot read, or a mask that is not for their patches."""
    sides = o.patch_sides
    if images.ndim != 4 or images.shape[-1] != o.channels:
        raise ValueError(f"images are {images.shape}; expected [B,H,W,{o.channels}], channels last")
    if not fill and (images.shape[1] < sides[0] or images.shape[2] < sides[1]):
        raise ValueError(f"images of {images.shape[1:3]} pixels hold no patch of {sides}")
    if masked is None:
        return
    if not o.mask_token:
        raise ValueError("the batch has `masked`, the model no model.mask_token")
    grid = [-(-n // s) if fill else n // s for n, s in zip(images.shape[1:3], sides, strict=True)]
    if math.prod(masked.shape) != len(images) * math.prod(grid):
        raise ValueError(
            f"`masked` is {masked.shape}; expected [{len(images)},{math.prod(grid)}] of the patches"
        )


class PixelHead(nn.Module):
    """Pixels of every token, float32: x [B,N,D] of a grid [h,w] -> [B,h*r,w*r,C], r = `stride`.

    One linear map, its outputs laid out as squares of pixels (Xie et al. 2021, section 3.3).
    """

    o: Options
    stride: int

    @nn.compact
    def __call__(self, x, grid: tuple):
        o, r = self.o, self.stride
        shape = (o.width, r, r, o.channels)
        head = Projection("bnd,dijc->bnijc", shape, 3, deviation(o, "head"), o.dtype, name="pixels")
        y = head(x.astype(jnp.float32)).reshape(len(x), *grid, r, r, o.channels)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), grid[0] * r, grid[1] * r, -1)


def pixel_sums(images, made, masked, sides: tuple):
    """(the sum of |difference| over the pixels of masked patches, their number): the L1 loss.

    images and made [B,H,W,C], masked [B,N], `sides` of a patch. The loss is sum / (number * C).
    ValueError where the reconstruction has another size.
    """
    if images.shape != made.shape:
        raise ValueError(
            f"the reconstruction is {made.shape}, the images {images.shape}: model.stride does not "
            "give back the size of the images"
        )
    apart = jnp.abs(cut(images.astype(jnp.float32), sides)[0] - cut(made, sides)[0])
    real = masked.reshape(apart.shape[:2]).astype(jnp.float32)
    return jnp.sum(apart * real[:, :, None, None, None]), jnp.sum(real) * math.prod(sides)
