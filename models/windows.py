"""Windows on a grid of tokens, at rest and shifted (Liu et al. 2021, sections 3.2 and 3.3)."""

import flax
import jax.numpy as jnp
import numpy as np

from models.masks import Mask
from models.options import Options
from models.pictures import table_sides


@flax.struct.dataclass
class Windows:
    """How a grid of `grid` (rows, columns) is cut into windows of `sides`, and moved by `shift`.

    The grid is padded with zeros on the right and below to whole windows; padded tokens are seen
    like others. `square`: first padded, then moved. Otherwise, as timm does, moved and then padded.
    What was not a neighbour before the move is not seen. All fields are static.
    """

    grid: tuple = flax.struct.field(pytree_node=False)
    sides: tuple = flax.struct.field(pytree_node=False)
    shift: tuple = flax.struct.field(pytree_node=False)
    square: bool = flax.struct.field(pytree_node=False, default=True)

    @classmethod
    def of(cls, o: Options, grid: tuple) -> "Windows":
        """The windows of a stage. A grid no larger than a window is one window and is not moved:
        both axes together if `o.windowing` is "square", else each by itself."""
        table = table_sides(o)
        if o.windowing == "square":
            small = min(grid) <= o.side
            side = min(grid) if small else o.side
            return cls(grid, (side, side), (0, 0) if small else (side // 2, side // 2))
        side = tuple(min(pair) for pair in zip(grid, table, strict=True))
        shift = tuple(0 if n <= s else s // 2 for n, s in zip(grid, side, strict=True))
        return cls(grid, side, shift, False)

    @property
    def padded(self) -> tuple:
        """Rows and columns of the padded grid."""
        return tuple(-(-n // s) * s for n, s in zip(self.grid, self.sides, strict=True))

    @property
    def counts(self) -> tuple:
        """How many windows there are, down and across."""
        return tuple(n // s for n, s in zip(self.padded, self.sides, strict=True))

    def moved(self, kind):
        """Whether the windows of a layer are moved: of a static kind, or of a traced number of one
        ("global" 0, "shifted" 1)."""
        if not any(self.shift):
            return False
        return kind == "shifted" if isinstance(kind, str) else kind

    def split(self, x, kind):
        """Tokens [B,N,D] to [B * windows, tokens of a window, D], windows in order of rows."""
        x, moved = x.reshape(len(x), *self.grid, -1), self.moved(kind)
        x = (
            self._roll(self._pad(x), moved, -1)
            if self.square
            else self._pad(self._roll(x, moved, -1))
        )
        (rows, columns), (height, width) = self.counts, self.sides
        x = x.reshape(len(x), rows, height, columns, width, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, height * width, x.shape[-1])

    def join(self, x, kind):
        """The way back of `split`, without what was padded: [B,N,D]."""
        (rows, columns), (height, width) = self.counts, self.sides
        x = x.reshape(-1, rows, columns, height, width, x.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
        x, moved = x.reshape(len(x), *self.padded, -1), self.moved(kind)
        cut = lambda x: x[:, : self.grid[0], : self.grid[1]]
        x = cut(self._roll(x, moved, 1)) if self.square else self._roll(cut(x), moved, 1)
        return x.reshape(len(x), -1, x.shape[-1])

    def mask(self, kind, rows: int) -> Mask:
        """Who sees whom inside the windows of a layer, for `rows` windows of some images."""
        moved = self.moved(kind)
        if moved is False:
            return Mask(causal=False)
        regions = self.regions()
        regions = np.tile(regions, (rows // len(regions), 1))
        regions = regions if moved is True else jnp.where(moved, regions, 1)
        return Mask(causal=False, q_segments=regions, k_segments=regions)

    def regions(self) -> np.ndarray:
        """Numbers [windows, tokens] from 1: tokens of the moved grid are neighbours if equal."""
        axes = []
        for size, side, shift in zip(self.padded, self.sides, self.shift, strict=True):
            place = np.arange(size)
            after = (place >= size - side).astype(int) + (place >= size - shift)
            axes.append(after if shift else np.zeros(size, int))
        whole = 1 + 3 * axes[0][:, None] + axes[1]
        (rows, columns), (height, width) = self.counts, self.sides
        whole = whole.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)
        return whole.reshape(-1, height * width).astype(np.int32)

    def _pad(self, x):
        more = [(0, new - old) for old, new in zip(self.grid, self.padded, strict=True)]
        return jnp.pad(x, ((0, 0), *more, (0, 0))) if self.padded != self.grid else x

    def _roll(self, x, moved, sign):
        if moved is False:
            return x
        times = sign if moved is True else sign * moved
        return jnp.roll(x, (times * self.shift[0], times * self.shift[1]), (1, 2))
