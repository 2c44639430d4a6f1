"""Swin: a hierarchy of stages whose blocks attend within windows, at rest and shifted in turn."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.body import asked
from models.dropout import site
from models.heads import Scores
from models.initial import deviation
from models.layers import Norm, Projection
from models.options import Options
from models.pictures import stage
from models.pixels import Patches, PixelHead
from models.windows import Windows


def grids(o: Options, images: tuple) -> list:
    """The grid (rows, columns) of every stage, for images of (height, width); rests count as whole."""
    up = lambda sizes, by: tuple(-(-n // b) for n, b in zip(sizes, by, strict=True))
    found = [up(images, o.patch_sides)]
    for _ in o.depths[1:]:
        found.append(up(found[-1], (2, 2)))
    return found


class Merge(nn.Module):
    """Neighbours in squares of two by two become one token: [B,N,D] of a grid -> [B,N',2D].

    Their states side by side (rows first: (0,0), (1,0), (0,1), (1,1)), a norm and a linear map without
    bias (Liu et al. 2021, section 3.1). Odd sides are padded with zeros.
    """

    o: Options

    @nn.compact
    def __call__(self, x, grid: tuple):
        o, (rows, columns) = self.o, grid
        x = x.reshape(len(x), rows, columns, -1)
        x = jnp.pad(x, ((0, 0), (0, rows % 2), (0, columns % 2), (0, 0)))
        x = x.reshape(len(x), (rows + 1) // 2, 2, (columns + 1) // 2, 2, o.width)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(len(x), -1, 4 * o.width)
        x = Norm(o.replace(norm_eps=o.patch_eps), name="norm")(x)
        shape, std = (4 * o.width, 2 * o.width), deviation(o, "merge")
        return Projection("btd,de->bte", shape, 0, std, o.dtype, name="project")(x)


class Stage(nn.Module):
    """Blocks on one grid, and the merging after them unless it is the last."""

    o: Options
    last: bool

    def setup(self):
        self.blocks = transformer.blocks(self.o)
        if not self.last:
            self.merge = Merge(self.o)

    def __call__(self, x, grid: tuple, layers, ctx):
        """(x for the next stage, x behind the blocks, what the blocks give)."""
        ctx = {**ctx, "windows": Windows.of(self.o, grid)}
        state, out = self.blocks({"x": x}, layers, ctx)
        x = state["x"]
        return (x if self.last else self.merge(x, grid)), x, out


class Stages(nn.Module):
    """All stages, one after the other."""

    o: Options

    @nn.compact
    def __call__(self, x, sizes: list, key, ctx):
        o, outs = self.o, []
        rates = np.linspace(0.0, o.drop_path, o.layers)
        for number, grid in enumerate(sizes):
            mine, done = stage(o, number), sum(o.depths[:number])
            part = Stage(mine, number == len(sizes) - 1, name=str(number))
            given = transformer.layers(mine, site(key, number), rates[done : done + mine.layers])
            x, before, out = part(x, grid, given, ctx)
            outs.append((x, before, out))
        return x, outs


class Swin(nn.Module):
    """Stages of window attention (Liu et al. 2021), with the head of `o.head`.

    "none": states alone. "classify" [B,C], of the mean of the last stage's tokens. "pixels": the
    image again (Xie et al. 2021, SimMIM). The reference leaves only attention out in stochastic
    depth; here, as in the paper's code, both branches may be.

    batch: `images` [B,H,W,C], float, of any size, padded to whole patches; `masked` [B,N] marks
    patches of the first stage, for models with a mask token. Of the collections, `maps` has `attn`, a
    tuple of [L,B * windows,H,T,T] for the stages, windows in order of rows of the moved grid; `hidden`
    has `blocks`, a tuple of [1 + L,B,N,D], and `stages`: the embedding and what each stage passes on.
    """

    o: Options

    def setup(self):
        o = self.o
        self.embed = Patches(o, fill=True)
        self.stages = Stages(o)
        last = stage(o, len(o.depths) - 1).replace(head=o.head, labels=o.labels)
        if o.final_norm:
            self.norm = Norm(last)
        if o.head == "classify":
            self.score = Scores(last)
        if o.head == "pixels":
            self.head = PixelHead(last, o.stride or last.patch)

    def features(self, batch, cache=None):
        """States [B,N,D] of the last stage after the final norm, and {}: nothing else is given."""
        x, _ = self._states(batch)
        return (self.norm(x) if self.o.final_norm else x), {}

    def feature_maps(self, batch, stages: tuple = ()):
        """What the named stages' blocks give (all, if none is named), before merging, each
        [B,rows,columns,D]; the final norm is not applied. What dense heads read."""
        count = len(self.o.depths)
        wrong = [i for i in stages if not 0 <= i < count]
        if wrong:
            raise ValueError(f"there is no stage {wrong[0]}; there are {count}, from 0 on")
        _, outs = self._states(batch)
        found = grids(self.o, batch["images"].shape[1:3])
        shaped = lambda i: outs[i][1].reshape(len(outs[i][1]), *found[i], -1)
        return tuple(shaped(i) for i in stages or range(count))

    def _states(self, batch):
        key = self._key()
        images = batch["images"]
        x, _ = self.embed(images, batch.get("masked"), site(key, 0))
        found = grids(self.o, images.shape[1:3])
        ctx = asked(self)
        first = x
        x, outs = self.stages(x, found, site(key, 1), ctx)
        if "maps" in ctx:
            self.put_variable("maps", "attn", tuple(out["maps"] for _, _, out in outs))
        if "hidden" in ctx:
            entries = [first, *(passed for passed, _, _ in outs)]
            self.put_variable("hidden", "stages", tuple(entries))
            blocks = [
                jnp.concatenate([entry[None], out["hidden"]])
                for entry, (_, _, out) in zip(entries[:-1], outs, strict=True)
            ]
            self.put_variable("hidden", "blocks", tuple(blocks))
        return x, outs

    def _key(self):
        """A dropout key, or None."""
        return self.make_rng("dropout") if self.o.dropout and self.has_rng("dropout") else None

    def pooled(self, x, batch=None):
        """The mean of the tokens, [B,D]."""
        return jnp.mean(x.astype(jnp.float32), 1).astype(x.dtype)

    def scores(self, x, batch=None):
        """Class scores [B,C] in float32 of states x."""
        if self.o.head != "classify":
            raise ValueError(f"a model with model.head={self.o.head!r} gives no scores")
        return self.score(self.pooled(x), self._key())

    def pixels(self, x, batch):
        """The images again [B,H',W',C], float32, of states x and the batch they came from."""
        if self.o.head != "pixels":
            raise ValueError(f"a model with model.head={self.o.head!r} makes no pixels")
        return self.head(x, grids(self.o, batch["images"].shape[1:3])[-1])

    def __call__(self, batch, cache=None):
        """`scores`, `pixels` and `pooled`, as far as the model has them."""
        x, _ = self.features(batch)
        out = {"pooled": self.pooled(x)}
        if self.o.head == "classify":
            out["scores"] = self.scores(x)
        if self.o.head == "pixels":
            out["pixels"] = self.pixels(x, batch)
        return out
