"""Attention maps of models of images, put back on the grid of patches that they are about."""

import numpy as np

from models.options import Options
from models.pictures import stage
from models.swin import grids
from models.windows import Windows


def on_grid(o: Options, weights, grid: tuple) -> np.ndarray:
    """Weights [L,B,H,T,T] of a ViT, DeiT or BEiT as [L,B,H,T,rows,columns]: for each token, how much
    it takes of each patch. What goes to the tokens before the patches is left out."""
    weights = np.asarray(weights)[..., o.prefix :]
    return weights.reshape(*weights.shape[:-1], *grid)


def rollout(weights) -> np.ndarray:
    """Weights [L,B,H,T,T] multiplied through the layers, [B,T,T] (Abnar and Zuidema 2020).

    Heads are averaged, half of each layer's is the residual stream; rows sum to 1.
    """
    mean = np.asarray(weights, np.float32).mean(2)
    size = mean.shape[-1]
    whole = np.broadcast_to(np.eye(size, dtype=np.float32), mean.shape[1:])
    for layer in mean:
        whole = (0.5 * layer + 0.5 * np.eye(size, dtype=np.float32)) @ whole
    return whole


def unwindowed(o: Options, weights, images: tuple) -> list:
    """Weights of Swin's blocks on the grids of their stages, windows put back where they came from.

    weights: the tuple [L,B * windows,H,T,T] of the collection `maps`; images (height, width). Gives
    for every block of every stage an array [B,H,rows,columns,rows,columns]: how much the patch of
    the first two takes of that of the last two, 0 outside its window. Padded places are left out, so
    that rows may sum to less than 1. Its size is the square of the number of patches.
    """
    found = []
    for number, (maps, grid) in enumerate(zip(weights, grids(o, images), strict=True)):
        mine = stage(o, number)
        windows = Windows.of(mine, grid)
        for depth, block in enumerate(np.asarray(maps)):
            found.append(_placed(block, windows, mine.kinds()[depth]))
    return found


def _placed(block, windows: Windows, kind: str) -> np.ndarray:
    """One block's weights [B * windows,H,T,T] as [B,H,rows,columns,rows,columns]."""
    count = windows.counts[0] * windows.counts[1]
    size, heads = block.shape[-1], block.shape[1]
    places = _places(windows, kind)
    total = windows.grid[0] * windows.grid[1]
    out = np.zeros((block.shape[0] // count, heads, total + 1, total + 1), block.dtype)
    block = block.reshape(-1, count, heads, size, size)
    for window, own in enumerate(places):
        out[:, :, own[:, None], own[None, :]] = block[:, window]
    out = out[:, :, :total, :total]
    return out.reshape(*out.shape[:2], *windows.grid, *windows.grid)


def _places(windows: Windows, kind: str) -> np.ndarray:
    """Which patch each place of each window holds [windows,T]; the number of patches if padding."""
    total = windows.grid[0] * windows.grid[1]
    numbers = np.arange(1, total + 1, dtype=np.float32).reshape(1, total, 1)
    held = np.asarray(windows.split(numbers, kind))[..., 0].astype(int)
    return np.where(held == 0, total, held - 1)
