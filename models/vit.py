"""Vision Transformers: ViT, DeiT, BEiT and the textbook's own, with their heads."""

import flax.linen as nn
import jax.numpy as jnp

from models import sparing, transformer
from models.body import asked, report
from models.dropout import site
from models.grids import Relative
from models.heads import Pooler, Scores, VisualHead
from models.layers import Norm
from models.masks import Mask
from models.options import Options
from models.pixels import Patches, PixelHead


class ViT(nn.Module):
    """A stack over patches (Dosovitskiy et al. 2020) that looks everywhere, with the head of `o.head`.

    "none": states alone. "classify" [B,C]. "distilled": one head on CLS and one on the distillation
    token, whose mean classifies (Touvron et al. 2020, section 4; they add softmaxes, their code
    logits). "masked": logits [B,N,V] of visual tokens (Bao et al. 2021). "pixels": the image again.

    batch: `images` [B,H,W,C], float, of any size that holds a patch; `masked` [B,N] (1 = masked) for
    models with a mask token; `mask` [B,prefix + N] (1 = seen). Dropout is on iff a `dropout` key is
    given; the collections `maps` and `hidden` are made only if asked for with `mutable`.
    """

    o: Options

    def setup(self):
        o = self.o
        self.embed = Patches(o)
        self.blocks = transformer.blocks(o)
        if o.relative_shared:
            self.relative = Relative(o, o.relative_grid, o.prefix)
        if o.final_norm:
            self.norm = Norm(o)
        if o.pool_norm:
            self.pool_norm = Norm(o)
        if o.pools:
            self.pool = Pooler(o)
        if o.head in ("classify", "distilled"):
            self.score = Scores(o)
        if o.head == "distilled":
            self.score_dist = Scores(o)
        if o.head == "masked":
            self.head = VisualHead(o)
        if o.head == "pixels":
            self.head = PixelHead(o, o.stride or o.patch)

    @property
    def read(self) -> int:
        """How many states at the start scores are read from; 0: all are."""
        o = self.o
        return {"classify": 1, "distilled": 2}.get(o.head, 0) if o.pool == "first" else 0

    def features(self, batch, cache=None, first=0):
        """States [B,prefix + N,D] after the final norm, and {}: nothing else is given.

        `first` > 0 asks for those of so many slots at the start alone, [B,first,D]; the last block is
        spared the others where it can be.
        """
        o, ctx = self.o, asked(self)
        if first and not (ctx or o.scan or o.experts or o.relative_layers):
            ctx["only"] = sparing.First(first)
        x, _, _ = self._states(batch, ctx)
        x = x[:, :first] if first else x
        return (self.norm(x) if o.final_norm else x), {}

    def feature_maps(self, batch, blocks: tuple):
        """The states of patches behind the named blocks (0: the first), each [B,rows,columns,D].

        As they leave the block: the final norm is not applied. What dense heads read.
        """
        wrong = [i for i in blocks if not 0 <= i < self.o.depth]
        if wrong:
            raise ValueError(f"there is no block {wrong[0]}; there are {self.o.depth}, from 0 on")
        _, grid, out = self._states(batch, {**asked(self), "hidden": ()})
        return tuple(self.on_grid(out["hidden"][i], grid) for i in blocks)

    def on_grid(self, x, grid: tuple):
        """The patches of states [B,prefix + N,D] as [B,rows,columns,D]."""
        return x[:, self.o.prefix :].reshape(len(x), *grid, x.shape[-1])

    def _states(self, batch, ctx):
        """(x before the final norm, the grid, what the layers give)."""
        o, key = self.o, self._key()
        x, grid = self.embed(batch["images"], batch.get("masked"), site(key, 0))
        ctx = {**ctx, "mask": Mask(False, 0, None, batch.get("mask"))}
        if o.relative_shared:
            ctx["bias"] = self.relative(grid)
        if o.relative_layers:
            ctx["grid"] = transformer.Grid(grid)
        state, out = self.blocks({"x": x}, transformer.layers(o, site(key, 1)), ctx)
        report(self, x, out)
        return state["x"], grid, out

    def _key(self):
        """A dropout key, or None."""
        return self.make_rng("dropout") if self.o.dropout and self.has_rng("dropout") else None

    def pooled(self, x, batch=None):
        """The state that stands for an image, [B,D]: CLS, or the mean of the patches.

        A norm and a pooler, if the model has them, act on it.
        """
        return self._pooled(x, self._key())

    def _pooled(self, x, key):
        o = self.o
        if o.pool == "mean":
            state = jnp.mean(x[:, o.prefix :].astype(jnp.float32), 1).astype(x.dtype)
        else:
            state = x[:, 0]
        state = self.pool_norm(state) if o.pool_norm else state
        return self.pool(state, key) if o.pools else state

    def scores(self, x, batch=None):
        """Class scores [B,C] in float32 of states x; of two heads, the mean."""
        if self.o.head == "distilled":
            first, second = self.both(x)
            return (first + second) / 2
        if self.o.head != "classify":
            raise ValueError(f"a model with model.head={self.o.head!r} gives no scores")
        key = self._key()
        return self.score(self._pooled(x, key), key)

    def both(self, x):
        """The scores of CLS and of the distillation token, each [B,C]: what distillation trains."""
        if self.o.head != "distilled":
            raise ValueError(f"a model with model.head={self.o.head!r} has one head")
        key = self._key()
        return self.score(x[:, 0], key), self.score_dist(x[:, 1], site(key, 3))

    def logits(self, x):
        """Logits [B,N,V] of the visual tokens of patches, of states x, or [M,V] of picked ones [M,D]."""
        if self.o.head != "masked":
            raise ValueError(f"a model with model.head={self.o.head!r} has no visual tokens")
        return self.head(x[:, self.o.prefix :] if x.ndim == 3 else x)

    def pixels(self, x, batch):
        """The images again [B,H',W',C], float32, of states x and the batch they came from."""
        if self.o.head != "pixels":
            raise ValueError(f"a model with model.head={self.o.head!r} makes no pixels")
        sizes = zip(batch["images"].shape[1:3], self.o.patch_sides, strict=True)
        return self.head(x[:, self.o.prefix :], tuple(size // side for size, side in sizes))

    def __call__(self, batch, cache=None):
        """`scores`, `logits`, `pixels` and `pooled`, as far as the model has them."""
        o = self.o
        x, _ = self.features(batch)
        out = {}
        if o.head in ("classify", "distilled"):
            out["scores"] = self.scores(x)
        if o.head == "masked":
            out["logits"] = self.logits(x)
        if o.head == "pixels":
            out["pixels"] = self.pixels(x, batch)
        if o.pools or o.head == "none":
            out["pooled"] = self.pooled(x)
        return out
