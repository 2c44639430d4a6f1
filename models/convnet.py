"""What convolutional nets share: stem, feature maps by stage, pooling and the head."""

import flax.linen as nn
import jax.numpy as jnp

from models.convolution import Unit, max_pool
from models.dropout import site
from models.heads import Scores
from models.options import Options
from models.placement import ROWS, place


class Stem(nn.Module):
    """The convolutions before the stages, the first of `stem_stride`, then the max-pool if any."""

    o: Options

    @nn.compact
    def __call__(self, x):
        o = self.o
        for i, out in enumerate(o.stem):
            stride = o.stem_stride if i == 0 else 1
            x = Unit(o, out, o.stem_kernel, stride, o.act, o.padding, name=str(i))(x)
        return max_pool(x) if o.stem_pool else x


class ConvNet(nn.Module):
    """A stem, stages, and the head that `o.head` names: "none", or "classify" [B,C].

    Subclasses give `_blocks()`, modules named by stage and by place in it, each called with (x, key).
    Where the collection `hidden` is mutable it gets the feature maps `stem`, `stage1`, ..., each
    [B,H,W,C], and `blocks`, a tuple of what every block gives. Batch normalisation updates iff
    `batch_stats` is mutable (`models.batchnorm`), dropout and stochastic depth are on iff a `dropout`
    key is given.
    """

    o: Options

    def setup(self):
        o = self.o
        self.stem = Stem(o)
        self.stages = self._blocks()
        if o.top:
            self.top = Unit(o, o.top, 1, act=o.act)
        if o.head == "classify":
            self.score = Scores(o)

    def features(self, batch, cache=None):
        """The last feature map [B,H,W,C] of `batch["images"]`, and {}: there is no cache.

        ValueError for images of another shape than [B,H,W,o.channels].
        """
        o, images = self.o, batch["images"]
        if images.ndim != 4 or images.shape[-1] != o.channels:
            raise ValueError(
                f"the images have the shape {images.shape}; expected [B,H,W,{o.channels}]"
            )
        x = place(images.astype(o.activations), ROWS)
        maps = {"stem": self.stem(x)}
        x, blocks = self.stages(maps["stem"], site(self._key(), 0))
        for i, many in enumerate(blocks):
            maps[f"stage{i + 1}"] = many[-1]
        if self.is_mutable_collection("hidden") and not self.is_initializing():
            for name, value in maps.items():
                self.put_variable("hidden", name, value)
            self.put_variable("hidden", "blocks", tuple(x for many in blocks for x in many))
        return (self.top(x) if o.top else x), {}

    def pooled(self, x, batch=None):
        """The mean (or with `o.pool` "max" the largest) of a feature map's places: [B,C]."""
        if self.o.pool == "max":
            return jnp.max(x, (1, 2))
        return jnp.mean(x, (1, 2), dtype=jnp.float32).astype(x.dtype)

    def scores(self, x, batch=None):
        """Class scores [B,C], float32, from the last feature map. ValueError for a model without."""
        if self.o.head != "classify":
            raise ValueError(f"a model with model.head={self.o.head!r} gives no scores")
        return self.score(self.pooled(x), self._key())

    def _key(self):
        return self.make_rng("dropout") if self.o.dropout and self.has_rng("dropout") else None

    def __call__(self, batch, cache=None):
        """`pooled` [B,C] and, with a classifying head, `scores`."""
        x, _ = self.features(batch)
        out = {"pooled": self.pooled(x)}
        if self.o.head == "classify":
            out["scores"] = self.scores(x)
        return out


class Stages(nn.Module):
    """All blocks in order: (x, key) -> (x, what each block gives, by stage).

    `block` is a module class with the fields (o, stage, place, number, rate). Rates of stochastic depth
    rise linearly from 0 with the block's number, to `o.drop_path` at number `o.drop_last`.
    """

    o: Options
    block: type
    last: int  # the number at which the rate would be o.drop_path

    @nn.compact
    def __call__(self, x, key=None):
        o, number, found = self.o, 0, []
        for stage, depth in enumerate(o.depths):
            made = Stage(o, self.block, stage, number, self.last, name=str(stage))(x, key)
            x, number = made[-1], number + depth
            found.append(made)
        return x, found


class Stage(nn.Module):
    """The blocks of one stage, named by their places: (x, key) -> a tuple of what each gives."""

    o: Options
    block: type
    stage: int
    first: int
    last: int

    @nn.compact
    def __call__(self, x, key=None):
        o, found = self.o, []
        for place_ in range(o.depths[self.stage]):
            number = self.first + place_
            rate = o.drop_path * number / max(self.last, 1)
            block = self.block(o, self.stage, place_, number, rate, name=str(place_))
            x = block(x, site(key, number))
            found.append(x)
        return tuple(found)
